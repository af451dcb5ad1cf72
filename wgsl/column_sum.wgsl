// out[p] = sum of x[r] over the rows r of part p.
//!include column_parts

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let place = column_part(params.R, params.N, params.P, inv);
    var sum = 0.0;
    if (place.column < params.N) {
        for (var row = place.first; row < place.last; row += WG / COLUMNS) {
            sum += load_x(row * params.N + place.column);
        }
    }
    let total = column_join(vec2(sum, 0.0), inv);
    if (column_writes(place, params.N, params.P, inv)) {
        out[place.part * params.N + place.column] = total.x;
    }
}
