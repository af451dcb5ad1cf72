//!family
// x_t <- f(x_t, number) for TENSORS tensors; four entries an invocation, WG apart.
const SHARE: u32 = 4u * WG;

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let group = group_index(inv);
    let number = load_number(0u);
    var begin = 0u;
//!unroll t TENSORS
    {
        let end = begin + (params.N$t + SHARE - 1u) / SHARE;
        if (group >= begin && group < end) {
            for (var turn = 0u; turn < 4u; turn += 1u) {
                let i = (group - begin) * SHARE + turn * WG + inv.local;
                if (i < params.N$t) { store_x$t(i, load_x$t(i) $SIGN number); }
            }
        }
        begin = end;
    }
//!end
}
