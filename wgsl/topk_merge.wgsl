// The best K of all candidates of a query, one workgroup a query.
//!include topk

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let query = group_index(inv);
    if (query >= params.B) { return; }
    let count = params.R / params.B * params.C;
    topk_start(inv);
    for (var start = 0u; start < count; start += WG) {
        let inside = start + inv.local < count;
        let at = query * count + min(start + inv.local, count - 1u);
        let index = candidate_indices[at];
        let offer = vec4(load_candidate_values(at), 0.0, 0.0, 0.0);
        topk_offer(offer, u32(index), inside && index >= 0, 1u, inv);
    }
    topk_flush(1u, inv);
    topk_store(0u, query, inv);
}
