// One step of a bitonic merge of `merge` entries: pairs `apart` from each other; one invocation a pair.
@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let pair = group_index(inv) * WG + inv.local;
    if (pair >= params.R * params.P / 2u) { return; }
    let a = 2u * pair - (pair & (params.apart - 1u));
    let b = a + params.apart;
    let falls = (a & (params.P - 1u) & params.merge) != 0u;
    let key_a = bitcast<u32>(keys[a]);
    let key_b = bitcast<u32>(keys[b]);
    let place_a = order[a];
    let place_b = order[b];
    let above = key_a > key_b || (key_a == key_b && place_a > place_b);
    if (above != falls) {
        keys[a] = bitcast<i32>(key_b);
        keys[b] = bitcast<i32>(key_a);
        order[a] = place_b;
        order[b] = place_a;
    }
}
