// Everything a token model asks of the mixture, one workgroup a row: log Z, the posterior mass of a
// group of splats first..last-1, and the coefficients of the mean. `pull` first holds log W.
//!include reduce
//!include vmf
//!include mixture

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let base = row * params.N;
    let h2 = load_h2(row);
    let begin = u32(first[row]);
    let end = u32(last[row]);

    var highest = -3.0e38;
    var highest_inside = -3.0e38;
    for (var k = inv.local; k < params.N; k += WG) {
        let a = load_a(k);
        let delta = 2.0 * a * load_s(base + k) + h2;
        let log_w = load_log_pi(k) + vmf_log_z0_ratio(a, delta, params.dimension);
        pull[base + k] = log_w;
        highest = max(highest, log_w);
        if (k >= begin && k < end) { highest_inside = max(highest_inside, log_w); }
    }
    let peak = reduce_max(highest, inv);
    let peak_inside = reduce_max(highest_inside, inv);

    var partial = 0.0;
    var partial_inside = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        let log_w = pull[base + k];
        partial += exp_accurate(log_w - peak);
        if (k >= begin && k < end) { partial_inside += exp_accurate(log_w - peak_inside); }
    }
    let total = reduce_sum(partial, inv);
    let total_inside = reduce_sum(partial_inside, inv);

    var partial_tilt = 0.0;
    for (var k = inv.local; k < params.N; k += WG) {
        let a = load_a(k);
        let q = tilted_square(a, load_s(base + k), h2);
        let share = exp_accurate(pull[base + k] - peak) / total * tilt_slope(q, params.dimension).x;
        partial_tilt += share;
        pull[base + k] = share * a;
    }
    let row_tilt = reduce_sum(partial_tilt, inv);
    if (inv.local == 0u) {
        let row_log_z = peak + log_accurate(total);
        log_z[row] = row_log_z;
        log_mass[row] = peak_inside - row_log_z + log_accurate(total_inside);
        tilt[row] = row_tilt;
    }
}
