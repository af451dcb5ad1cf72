// grad_weight[p] = sum of grad_out (x - mean) rstd and grad_bias[p] = sum of grad_out over the rows of
// part p.
//!include column_parts

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let place = column_part(params.R, params.N, params.P, inv);
    var sums = vec2<f32>();
    if (place.column < params.N) {
        for (var row = place.first; row < place.last; row += WG / COLUMNS) {
            let i = row * params.N + place.column;
            let y = (load_x(i) - load_mean(row)) * load_rstd(row);
            sums += load_grad_out(i) * vec2(y, 1.0);
        }
    }
    let total = column_join(sums, inv);
    if (column_writes(place, params.N, params.P, inv)) {
        grad_weight[place.part * params.N + place.column] = total.x;
        grad_bias[place.part * params.N + place.column] = total.y;
    }
}
