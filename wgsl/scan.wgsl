//!family
// out[r, i] = start[r, s] + x[r, s span] + ... + x[r, i], for i in segment s of row r: one workgroup a
// segment, which goes through it by WG entries and carries the sum along.
var<workgroup> sums: array<$TYPE, WG>;

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
        var sum = $TYPE(0);
        if (i < end) { sum = load_x(base + i); }
        for (var width = 1u; width < WG; width *= 2u) {
            sums[inv.local] = sum;
            workgroupBarrier();
            if (inv.local >= width) { sum += sums[inv.local - width]; }
            workgroupBarrier();
        }
        if (i < end) { store_out(base + i, carry + sum); }
        sums[inv.local] = sum;
        workgroupBarrier();
        carry += sums[WG - 1u];
        workgroupBarrier();
    }
}
