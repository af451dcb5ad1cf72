//!family
// out[part count + k] = the combination of part `part` of the `length` entries of x that belong to result
// k. `lanes` invocations share a result, side by side, or, with `across`, as far apart as there are
// results in a workgroup, where neighbouring results lie side by side in memory.
//!if FLOATS
//!include floats
//!endif
var<workgroup> shared_values: array<$TYPE, WG>;

fn combine(a: $TYPE, b: $TYPE) -> $TYPE { return $COMBINE; }

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let results = WG / params.lanes;
    let lane = select(inv.local % params.lanes, inv.local / results, params.across != 0u);
    let slot = select(inv.local / params.lanes, inv.local % results, params.across != 0u);
    let apart = select(1u, results, params.across != 0u);
    let result = group_index(inv) * results + slot;
    let k = result % params.count;
    let begin = min(result / params.count * params.span, params.length);
    let end = select(min(begin + params.span, params.length), begin, result >= params.count * params.parts);
    var at = params.x_at + k % params.k2 * params.x_k2;
    at += k / params.k2 % params.k1 * params.x_k1 + k / params.k2 / params.k1 * params.x_k0;
//!if CENTRE
    let centre = load_centre(k);
//!endif
    var total = $TYPE($IDENTITY);
    for (var r = begin + lane; r < end; r += params.lanes) {
        var place = at + r * params.x_r2;
        if (params.r2 < params.length) {
            place = at + r % params.r2 * params.x_r2 + r / params.r2 % params.r1 * params.x_r1;
            place += r / params.r2 / params.r1 * params.x_r0;
        }
        let x = load_x(place);
        total = combine(total, $MAP);
    }
    shared_values[inv.local] = total;
    workgroupBarrier();
    for (var width = params.lanes / 2u; width > 0u; width /= 2u) {
        if (lane < width) {
            shared_values[inv.local] = combine(shared_values[inv.local], shared_values[inv.local + width * apart]);
        }
        workgroupBarrier();
    }
    if (lane == 0u && result < params.count * params.parts) {
        let total = shared_values[inv.local];
        store_out(result, $FINISH);
    }
}
