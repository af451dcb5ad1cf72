// With p_k = exp(log_w_k + a_k (s_k - 1) + energy): grad_s = -g p a, grad_log_w = -sum_b g p and
// grad_a = -sum_b g p (s - 1), g = grad_energy. A workgroup takes WG columns and goes through all rows.
//!include math

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let k = group_index(inv) * WG + inv.local;
    if (k >= params.N) { return; }
    let a = load_a(k);
    var sum_log_w = 0.0;
    var sum_a = 0.0;
    for (var row = 0u; row < params.B; row += 1u) {
        let i = row * params.N + k;
        let below = load_s(i) - 1.0;
        let share = -load_grad_energy(row) * exp_accurate(load_log_w(k) + a * below + load_energy(row));
        grad_s[i] = share * a;
        sum_log_w += share;
        sum_a += share * below;
    }
    grad_log_w[k] = sum_log_w;
    grad_a[k] = sum_a;
}
