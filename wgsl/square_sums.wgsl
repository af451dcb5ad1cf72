// partials[first + g] = sum of x^2 over part g of `count` equal parts; one workgroup a part.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let group = group_index(inv);
    if (group >= params.count) { return; }
    let step = (params.N + params.count - 1u) / params.count;
    let end = min((group + 1u) * step, params.N);
    var partial = 0.0;
    for (var i = group * step + inv.local; i < end; i += WG) {
        let value = load_x(i);
        partial += value * value;
    }
    let total = reduce_sum(partial, inv);
    if (inv.local == 0u) { partials[params.first + group] = total; }
}
