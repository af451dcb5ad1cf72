// Bitonic merges of `first`, 2 first, ... `last` entries, as far as they stay within blocks of 1024; a
// workgroup a block. Pairs are compared by key, then by place, so that the order is stable.
var<workgroup> block_keys: array<u32, BLOCK>;
var<workgroup> block_order: array<i32, BLOCK>;

fn exchange(pair: u32, merge: u32, apart: u32, base: u32) {
    let a = 2u * pair - (pair & (apart - 1u));
    let b = a + apart;
    let falls = ((base + a) & (params.P - 1u) & merge) != 0u;
    let key_a = block_keys[a];
    let key_b = block_keys[b];
    let place_a = block_order[a];
    let place_b = block_order[b];
    let above = key_a > key_b || (key_a == key_b && place_a > place_b);
    if (above != falls) {
        block_keys[a] = key_b;
        block_keys[b] = key_a;
        block_order[a] = place_b;
        block_order[b] = place_a;
    }
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let base = group_index(inv) * BLOCK;
    let total = params.R * params.P;
    if (base >= total) { return; }
    for (var i = inv.local; i < BLOCK; i += WG) {
        block_keys[i] = bitcast<u32>(keys[min(base + i, total - 1u)]);
        block_order[i] = order[min(base + i, total - 1u)];
    }
    for (var merge = params.first; merge <= params.last; merge *= 2u) {
        for (var apart = min(merge, BLOCK) / 2u; apart > 0u; apart /= 2u) {
            workgroupBarrier();
            for (var pair = inv.local; pair < BLOCK / 2u; pair += WG) { exchange(pair, merge, apart, base); }
        }
    }
    workgroupBarrier();
    for (var i = inv.local; i < BLOCK; i += WG) {
        if (base + i < total) {
            keys[base + i] = bitcast<i32>(block_keys[i]);
            order[base + i] = block_order[i];
        }
    }
}
