//!family
// What is sorted: the key of every entry of x and its place in the row; rows are filled up to P entries
// with ones that come last. One invocation an entry.
//!include sort_key

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.R * params.P) { return; }
    let place = i % params.P;
    var key = 0xffffffffu;
    if (place < params.N) {
        key = $KEY(x[i / params.P * params.N + place]);
        if (params.descending != 0u) { key = ~key; }
    }
    keys[i] = bitcast<i32>(key);
    order[i] = i32(place);
}
