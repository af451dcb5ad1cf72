// grad_weight[p] = sum of grad_out x rstd over the rows of part p.
//!include column_parts

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let place = column_part(params.R, params.N, params.P, inv);
    var sum = 0.0;
    if (place.column < params.N) {
        for (var row = place.first; row < place.last; row += WG / COLUMNS) {
            let i = row * params.N + place.column;
            sum += load_grad_out(i) * load_x(i) * load_rstd(row);
        }
    }
    let total = column_join(vec2(sum, 0.0), inv);
    if (column_writes(place, params.N, params.P, inv)) {
        grad_weight[place.part * params.N + place.column] = total.x;
    }
}
