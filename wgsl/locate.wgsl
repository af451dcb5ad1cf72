//!family
// values[r], indices[r] = the best entry of row r of x and the first place where it stands; `lanes`
// invocations a row. Entries are compared by a key that orders as u32 what they order as numbers.
//!include sort_key
var<workgroup> best_key: array<u32, WG>;
var<workgroup> best_place: array<u32, WG>;

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv) * (WG / params.lanes) + inv.local / params.lanes;
    let lane = inv.local % params.lanes;
    let base = row * params.N;
    let end = select(0u, params.N, row < params.R);
    var key = 0u;
    var place = 0xffffffffu;
    for (var i = lane; i < end; i += params.lanes) {
        let other = $KEY(x[base + i]);
        if (place == 0xffffffffu || other > key) {
            key = other;
            place = i;
        }
    }
    best_key[inv.local] = key;
    best_place[inv.local] = place;
    workgroupBarrier();
    for (var width = params.lanes / 2u; width > 0u; width /= 2u) {
        if (lane < width) {
            let other = best_key[inv.local + width];
            let at = best_place[inv.local + width];
            let own = best_key[inv.local];
            if (other > own || (other == own && at < best_place[inv.local])) {
                best_key[inv.local] = other;
                best_place[inv.local] = at;
            }
        }
        workgroupBarrier();
    }
    if (lane == 0u && row < params.R) {
        let at = best_place[inv.local];
        indices[row] = i32(at);
        values[row] = x[base + at];
    }
}
