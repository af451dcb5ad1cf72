// Sum and maximum over one workgroup of WG invocations (WG a power of two). Every invocation must
// call them and gets the result. With SUBGROUP each subgroup reduces in registers first, so that only
// one value a subgroup passes through workgroup memory.
var<workgroup> reduce_scratch: array<f32, WG>;

//!if SUBGROUP
fn reduce_sum(value: f32, inv: Invocation) -> f32 {
    let partial = subgroupAdd(value);
    workgroupBarrier();
    if (inv.lane == 0u) { reduce_scratch[inv.subgroup] = partial; }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < inv.subgroups; i += 1u) { total += reduce_scratch[i]; }
    return total;
}

fn reduce_max(value: f32, inv: Invocation) -> f32 {
    let partial = subgroupMax(value);
    workgroupBarrier();
    if (inv.lane == 0u) { reduce_scratch[inv.subgroup] = partial; }
    workgroupBarrier();
    var best = reduce_scratch[0];
    for (var i = 1u; i < inv.subgroups; i += 1u) { best = max(best, reduce_scratch[i]); }
    return best;
}
//!else
fn reduce_sum(value: f32, inv: Invocation) -> f32 {
    workgroupBarrier();
    reduce_scratch[inv.local] = value;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        if (inv.local < width) {
            reduce_scratch[inv.local] += reduce_scratch[inv.local + width];
        }
        workgroupBarrier();
    }
    return reduce_scratch[0];
}

fn reduce_max(value: f32, inv: Invocation) -> f32 {
    workgroupBarrier();
    reduce_scratch[inv.local] = value;
    workgroupBarrier();
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        if (inv.local < width) {
            reduce_scratch[inv.local] = max(reduce_scratch[inv.local], reduce_scratch[inv.local + width]);
        }
        workgroupBarrier();
    }
    return reduce_scratch[0];
}
//!endif
