// The best K of up to TOPK_STREAMS streams of (value, index), kept by one workgroup of WG = 128.
//
// Larger values are better, equal ones by the lower index, NaN is worst. Entries travel as (key, index)
// with a key that orders as u32 what the values order as numbers; indices are distinct and less than
// TOPK_NONE. K <= 128. What passes the K-th best so far waits in a buffer until the buffer overflows;
// then the rank of every entry, the number of entries that beat it, is its place in the new list.
const TOPK_NONE: u32 = 0xffffff00u;
var<workgroup> topk_best: array<vec2<u32>, TOPK_STREAMS * WG>;
var<workgroup> topk_buffer: array<vec2<u32>, TOPK_STREAMS * WG>;
var<workgroup> topk_offered: array<atomic<u32>, TOPK_STREAMS>;
var<workgroup> topk_waiting: array<u32, TOPK_STREAMS>;
var<workgroup> topk_overflow: bool;

fn topk_key(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) { return 0u; }
    if (bits == magnitude || magnitude == 0u) { return magnitude | 0x80000000u; }
    return ~bits;
}

fn topk_value(key: u32) -> f32 {
    let bits = select(~key, key & 0x7fffffffu, key >= 0x80000000u);
    return bitcast<f32>(select(bits, 0x7fc00000u, key == 0u));
}

fn topk_beats(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

// Start anew, with lists of entries that any other beats.
fn topk_start(inv: Invocation) {
    workgroupBarrier();
    for (var stream = 0u; stream < TOPK_STREAMS; stream += 1u) {
        topk_best[stream * WG + inv.local] = vec2(0u, TOPK_NONE + inv.local);
    }
    if (inv.local < TOPK_STREAMS) {
        atomicStore(&topk_offered[inv.local], 0u);
        topk_waiting[inv.local] = 0u;
    }
    workgroupBarrier();
}

fn topk_rank(entry: vec2<u32>, base: u32, waiting: u32) -> u32 {
    var rank = 0u;
    var width = params.K;
    while (width > 0u) {
        let half_width = width / 2u;
        if (topk_beats(topk_best[base + rank + half_width], entry)) {
            rank += half_width + 1u;
            width -= half_width + 1u;
        } else {
            width = half_width;
        }
    }
    for (var i = 0u; i < waiting; i += 1u) {
        rank += select(0u, 1u, topk_beats(topk_buffer[base + i], entry));
    }
    return rank;
}

// Merge the waiting entries of all streams into their lists.
fn topk_flush(streams: u32, inv: Invocation) {
    for (var stream = 0u; stream < streams; stream += 1u) {
        let base = stream * WG;
        let waiting = topk_waiting[stream];
        let old_entry = topk_best[base + inv.local];
        let new_entry = topk_buffer[base + inv.local];
        var old_rank = params.K;
        var new_rank = params.K;
        if (inv.local < params.K) { old_rank = topk_rank(old_entry, base, waiting); }
        if (inv.local < waiting) { new_rank = topk_rank(new_entry, base, waiting); }
        workgroupBarrier();
        if (old_rank < params.K) { topk_best[base + old_rank] = old_entry; }
        if (new_rank < params.K) { topk_best[base + new_rank] = new_entry; }
    }
    workgroupBarrier();
    if (inv.local < TOPK_STREAMS) {
        atomicStore(&topk_offered[inv.local], 0u);
        topk_waiting[inv.local] = 0u;
    }
    workgroupBarrier();
}

// Offer one value to each of the first `streams` streams; every invocation must call this, with
// valid = false if it has none. The lists are complete after a final `topk_flush`.
fn topk_offer(values: vec4<f32>, index: u32, valid: bool, streams: u32, inv: Invocation) {
    var offers = values;
    var places: vec4<u32>;
    loop {
        for (var stream = 0u; stream < streams; stream += 1u) {
            places[stream] = WG;
            let entry = vec2(topk_key(offers[stream]), index);
            if (valid && topk_beats(entry, topk_best[stream * WG + params.K - 1u])) {
                places[stream] = atomicAdd(&topk_offered[stream], 1u);
            }
        }
        workgroupBarrier();
        if (inv.local == 0u) {
            var overflow = false;
            for (var stream = 0u; stream < streams; stream += 1u) {
                overflow = overflow || atomicLoad(&topk_offered[stream]) > WG;
            }
            topk_overflow = overflow;
        }
        if (!workgroupUniformLoad(&topk_overflow)) { break; }
        topk_flush(streams, inv);
    }
    for (var stream = 0u; stream < streams; stream += 1u) {
        if (places[stream] < WG) {
            topk_buffer[stream * WG + places[stream]] = vec2(topk_key(offers[stream]), index);
        }
    }
    if (inv.local < TOPK_STREAMS) { topk_waiting[inv.local] = atomicLoad(&topk_offered[inv.local]); }
    workgroupBarrier();
}

// The list of a stream as row `row` of the outputs `values` and `indices`; -1 where there is no entry.
fn topk_store(stream: u32, row: u32, inv: Invocation) {
    if (inv.local < params.K) {
        let entry = topk_best[stream * WG + inv.local];
        values[row * params.K + inv.local] = topk_value(entry.x);
        indices[row * params.K + inv.local] = select(i32(entry.y), -1, entry.y >= TOPK_NONE);
    }
}
