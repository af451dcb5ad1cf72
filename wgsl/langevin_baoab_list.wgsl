// Many BAOAB steps of one chain over its neighbour list, one workgroup a chain, the row in workgroup
// memory. Each force is certified first: outside the list every cosine to x is at most
// c = cos(outer - angle(x, anchor)), so that the log of the dropped mass is at most
// max_t(value_t + slope_t (c-1)). A chain stops before it uses a force whose list may lack more than
// exp(log_eps) of the list's own mass.
//!include baoab

const LOWEST: f32 = -3.0e38;
// Splats with a smaller share of the list's mass do not pull: together less than rounding.
const NEGLIGIBLE: f32 = 1.0e-12;

var<workgroup> row_x: array<f32, MAX_D>;
var<workgroup> row_v: array<f32, MAX_D>;
var<workgroup> similarity: array<f32, MAX_M>;
var<workgroup> pull: array<f32, MAX_M>;
var<workgroup> partials: array<f32, WG>;

fn get_x(i: u32) -> f32 { return row_x[i]; }
fn get_v(i: u32) -> f32 { return row_v[i]; }
fn set_x(i: u32, value: f32) { row_x[i] = value; }
fn set_v(i: u32, value: f32) { row_v[i] = value; }

// similarity[j] = x . mu[idx[list + j]], LANES invocations a splat; empty entries give 0.
fn list_similarities(list: u32, inv: Invocation) {
    let lane = inv.local % LANES;
    for (var first = 0u; first < params.M; first += WG / LANES) {
        let entry = first + inv.local / LANES;
        var partial = 0.0;
        if (entry < params.M) {
            let splat = idx[list + entry];
            if (splat >= 0) {
                let base = u32(splat) * params.D;
                for (var i = lane; i < params.D; i += LANES) { partial += row_x[i] * load_mu(base + i); }
            }
        }
        partials[inv.local] = partial;
        workgroupBarrier();
        if (lane == 0u && entry < params.M) {
            var total = 0.0;
            for (var i = 0u; i < LANES; i += 1u) { total += partials[inv.local + i]; }
            similarity[entry] = total;
        }
        workgroupBarrier();
    }
}

// log w_k + a_k (x.mu_k - 1) of a list entry, the lowest float where it is empty.
fn logit(list: u32, entry: u32) -> f32 {
    let splat = idx[list + entry];
    if (splat < 0) { return LOWEST; }
    return load_log_w(u32(splat)) + load_a(u32(splat)) * (similarity[entry] - 1.0);
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let row = group_index(inv);
    if (row >= params.B) { return; }
    let begin = u32(state[2u * row]);
    let end = min(begin + params.forces, params.n_steps + 1u);
    if (begin >= end) { return; }
    let base = row * params.D;
    let list = row * params.M;
    for (var q = inv.local; q < quads(); q += WG) {
        for (var i = 4u * q; i < quad_end(q); i += 1u) {
            row_x[i] = x[base + i];
            row_v[i] = v[base + i];
        }
    }
    workgroupBarrier();

    let outer_cosine = load_outer(2u * row);
    let outer_sine = load_outer(2u * row + 1u);
    var log_mass = 0.0;
    var tilt = 0.0;
    var done = begin;
    for (; done < end; done += 1u) {
        list_similarities(list, inv);
        var chord = 0.0;
        var context = 0.0;
        for (var i = inv.local; i < params.D; i += WG) {
            let apart = row_x[i] - load_anchor(base + i);
            chord += apart * apart;
            context += row_x[i] * load_h(base + i);
        }
        chord = reduce_sum(chord, inv);
        tilt = reduce_sum(context, inv);
        var largest = LOWEST;
        for (var j = inv.local; j < params.M; j += WG) { largest = max(largest, logit(list, j)); }
        let peak = reduce_max(largest, inv);
        var mass = 0.0;
        for (var j = inv.local; j < params.M; j += WG) { mass += exp(logit(list, j) - peak); }
        let total = reduce_sum(mass, inv);
        log_mass = peak + log_accurate(total);

        if (outer_cosine >= -1.0) {
            let turned = 1.0 - 0.5 * chord;
            var below_one = 0.0;
            if (turned > outer_cosine) {
                below_one = outer_cosine * turned
                    + outer_sine * sqrt(max(chord * (1.0 - 0.25 * chord), 0.0)) - 1.0;
            }
            var dropped = LOWEST;
            for (var t = inv.local; t < params.T; t += WG) {
                dropped = max(dropped, load_envelope(2u * t) + load_envelope(2u * t + 1u) * below_one);
            }
            if (!(reduce_max(dropped, inv) <= params.log_eps + log_mass)) { break; }
        }

        var radial = 0.0;
        for (var j = inv.local; j < params.M; j += WG) {
            let share = exp(logit(list, j) - peak) / total;
            pull[j] = 0.0;
            if (share > NEGLIGIBLE) { pull[j] = share * load_a(u32(idx[list + j])); }
            radial += pull[j] * similarity[j];
        }
        let outward = reduce_sum(radial, inv) + tilt;
        let interior = done > 0u && done < params.n_steps;
        let kick = select(params.half_step, 2.0 * params.half_step, interior);
        for (var q = inv.local; q < quads(); q += WG) {
            for (var i = 4u * q; i < quad_end(q); i += 1u) {
                var force = load_h(base + i) - outward * row_x[i];
                for (var j = 0u; j < params.M; j += 1u) {
                    if (pull[j] > 0.0) {
                        force += pull[j] * load_mu(u32(idx[list + j]) * params.D + i);
                    }
                }
                row_v[i] += kick * force;
            }
        }
        if (done < params.n_steps) {
            drift_thermalise_drift(
                params.half_step, params.decay, params.noise, done, u32(chain[row]), inv);
        } else {
            reproject(inv);
        }
        workgroupBarrier();
    }

    for (var q = inv.local; q < quads(); q += WG) {
        for (var i = 4u * q; i < quad_end(q); i += 1u) {
            x[base + i] = row_x[i];
            v[base + i] = row_v[i];
        }
    }
    if (inv.local == 0u) {
        var best = 0u;
        for (var j = 1u; j < params.M; j += 1u) {
            if (logit(list, j) > logit(list, best)) { best = j; }
        }
        state[2u * row] = i32(done);
        state[2u * row + 1u] = idx[list + best];
        energy[row] = -log_mass - tilt;
    }
}
