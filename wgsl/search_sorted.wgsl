// out[r, q] = how many entries of the sorted row r are below x[r, q], or, with `right`, not above it; by
// bisection, one invocation a number.
@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.R * params.Q) { return; }
    let base = i / params.Q * params.N;
    let wanted = x[i];
    var low = 0u;
    var high = params.N;
    while (low < high) {
        let middle = (low + high) / 2u;
        let entry = boundaries[base + middle];
        if (entry < wanted || (params.right != 0u && entry == wanted)) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    out[i] = i32(low);
}
