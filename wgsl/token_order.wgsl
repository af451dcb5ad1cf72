// Stable sort of token ids by counting: the place of an id is the number of ids below it, and of equal
// ones before it. One invocation an id; the workgroup goes through all ids in tiles.
var<workgroup> tile: array<i32, WG>;

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    let own = ids[min(i, params.B - 1u)];
    var place = 0u;
    for (var start = 0u; start < params.B; start += WG) {
        workgroupBarrier();
        tile[inv.local] = ids[min(start + inv.local, params.B - 1u)];
        workgroupBarrier();
        let filled = min(WG, params.B - start);
        for (var j = 0u; j < filled; j += 1u) {
            let other = tile[j];
            place += select(0u, 1u, other < own || (other == own && start + j < i));
        }
    }
    if (i < params.B) {
        order[place] = i32(i);
        sorted_ids[place] = own;
    }
}
