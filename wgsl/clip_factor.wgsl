// norm = sqrt(sum of partials) and factor = min(1, max_norm / (norm + 1e-6)); one workgroup.
//!include reduce

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    var partial = 0.0;
    for (var i = inv.local; i < params.S; i += WG) { partial += load_partials(i); }
    let total = reduce_sum(partial, inv);
    if (inv.local == 0u) {
        let length = sqrt(total);
        norm[0] = length;
        // A norm of NaN must not become a factor of 1.
        factor[0] = select(params.max_norm / (length + 1e-6), 1.0, length + 1e-6 <= params.max_norm);
    }
}
