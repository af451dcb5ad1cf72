// partials[first + t, p] = sum of x_t^2 over part p of x_t, for the first tensors whose rows there are; one
// workgroup a part. A tensor has as many parts as are worth a workgroup, and zeros in the other places.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let group = group_index(inv);
    var begin = 0u;
    var place = 0u;
    var partial = 0.0;
//!unroll t TENSORS
    if (params.first + u32($t) < params.R) {
        let parts = clamp((params.N$t + SHARE - 1u) / SHARE, 1u, params.P);
        let row = (params.first + u32($t)) * params.P;
        if (group >= begin && group < begin + parts) {
            let part = group - begin;
            let size = (params.N$t + parts - 1u) / parts;
            let end = min((part + 1u) * size, params.N$t);
            for (var i = part * size + inv.local; i < end; i += WG) {
                let value = load_x$t(i);
                partial += value * value;
            }
            place = row + part;
            if (part == 0u) {
                for (var p = parts + inv.local; p < params.P; p += WG) { partials[row + p] = 0.0; }
            }
        }
        begin += parts;
    }
//!end
    let total = reduce_sum(partial, inv);
    if (inv.local == 0u && group < begin) { partials[place] = total; }
}
