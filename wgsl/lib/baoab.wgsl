// Moves of one Langevin chain on the sphere, for a workgroup that owns the chain's row. The kernel
// supplies the row through get_x, get_v, set_x and set_v; an invocation touches only its own quads
// of coordinates (local, local + WG, ...), so nothing but the reductions has to synchronise.
//!include reduce
//!include philox

fn quads() -> u32 { return (params.D + 3u) / 4u; }

fn quad_end(quad: u32) -> u32 { return min(4u * quad + 4u, params.D); }

// x(t) along the geodesic that leaves x with velocity v, carrying v by parallel transport.
fn drift(time: f32, inv: Invocation) {
    var partial = 0.0;
    for (var q = inv.local; q < quads(); q += WG) {
        for (var i = 4u * q; i < quad_end(q); i += 1u) { partial += get_v(i) * get_v(i); }
    }
    let speed = sqrt(reduce_sum(partial, inv));
    let turn = sincos_accurate(speed * time);
    let along = select(turn.x / speed, time, speed < 1e-20);
    for (var q = inv.local; q < quads(); q += WG) {
        for (var i = 4u * q; i < quad_end(q); i += 1u) {
            let x = get_x(i);
            let v = get_v(i);
            set_x(i, turn.y * x + along * v);
            set_v(i, turn.y * v - turn.x * speed * x);
        }
    }
}

// v <- decay v + noise g, with g the standard normal row of (seed, chain, step).
fn thermalise(decay: f32, noise: f32, step: u32, chain: u32, inv: Invocation) {
    for (var q = inv.local; q < quads(); q += WG) {
        let normals = philox_normal4(
            vec4<u32>(q, step, chain, STREAM_LANGEVIN), vec2<u32>(params.seed_lo, params.seed_hi));
        for (var i = 4u * q; i < quad_end(q); i += 1u) {
            set_v(i, decay * get_v(i) + noise * normals[i - 4u * q]);
        }
    }
}

// x <- x / |x|, v <- v - (x.v) x: removes what rounding and noise put outside the tangent bundle.
fn reproject(inv: Invocation) {
    var squared = 0.0;
    var radial = 0.0;
    for (var q = inv.local; q < quads(); q += WG) {
        for (var i = 4u * q; i < quad_end(q); i += 1u) {
            squared += get_x(i) * get_x(i);
            radial += get_x(i) * get_v(i);
        }
    }
    let scale = 1.0 / sqrt(reduce_sum(squared, inv));
    let along = reduce_sum(radial, inv) * scale;
    for (var q = inv.local; q < quads(); q += WG) {
        for (var i = 4u * q; i < quad_end(q); i += 1u) {
            let x = get_x(i) * scale;
            set_x(i, x);
            set_v(i, get_v(i) - along * x);
        }
    }
}

// The drift and the exact Ornstein-Uhlenbeck step of BAOAB: A(t) O A(t).
fn drift_thermalise_drift(
    time: f32, decay: f32, noise: f32, step: u32, chain: u32, inv: Invocation
) {
    drift(time, inv);
    thermalise(decay, noise, step, chain, inv);
    reproject(inv);
    drift(time, inv);
}
