//!family
// out[r, i] = start[r, s] with x[r, s span], ..., x[r, i] combined, for i in segment s of row r: one
// workgroup a segment, which goes through it by WG entries and carries the result along.
var<workgroup> results: array<$TYPE, WG>;

fn combine(a: $TYPE, b: $TYPE) -> $TYPE { return $COMBINE; }

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let segment = group_index(inv);
    if (segment >= params.R * params.S) { return; }
    let base = segment / params.S * params.N;
    let begin = segment % params.S * params.span;
    let end = min(begin + params.span, params.N);
    var carry = start[segment];
    for (var first = begin; first < end; first += WG) {
        let i = first + inv.local;
        var result = $TYPE($IDENTITY);
        if (i < end) { result = load_x(base + i); }
        for (var width = 1u; width < WG; width *= 2u) {
            results[inv.local] = result;
            workgroupBarrier();
            if (inv.local >= width) { result = combine(results[inv.local - width], result); }
            workgroupBarrier();
        }
        if (i < end) { store_out(base + i, combine(carry, result)); }
        results[inv.local] = result;
        workgroupBarrier();
        carry = combine(carry, results[WG - 1u]);
        workgroupBarrier();
    }
}
