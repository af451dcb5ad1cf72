// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers:
// as easy as 1, 2, 3", SC 2011). Counter (block, step, chain, stream), key (seed_lo, seed_hi);
// coordinate i of a row is lane i % 4 of block i / 4. Twin: ebm_wgpu/kernels/_philox.py.
//!include math

const STREAM_LANGEVIN: u32 = 0u;
const STREAM_VELOCITY: u32 = 1u;
const STREAM_COSINE: u32 = 2u;
const STREAM_DIRECTION: u32 = 3u;
const STREAM_COMPONENT: u32 = 4u;

// High 32 bits of a product; WGSL has no 64-bit integers.
fn philox_mul_high(a: u32, b: u32) -> u32 {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let cross = a_high * b_low + ((a_low * b_low) >> 16u);
    let middle = a_low * b_high + (cross & 0xffffu);
    return a_high * b_high + (cross >> 16u) + (middle >> 16u);
}

fn philox4x32(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var i = 0u; i < 10u; i += 1u) {
        let high0 = philox_mul_high(0xD2511F53u, c.x);
        let high1 = philox_mul_high(0xCD9E8D57u, c.z);
        c = vec4<u32>(high1 ^ c.y ^ k.x, 0xCD9E8D57u * c.z, high0 ^ c.w ^ k.y, 0xD2511F53u * c.x);
        k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

// Uniforms (m + 1/2) 2^-23 with m the upper 23 bits: exact in f32, never 0 or 1.
fn philox_uniform4(counter: vec4<u32>, key: vec2<u32>) -> vec4<f32> {
    return (vec4<f32>(philox4x32(counter, key) >> vec4<u32>(9u)) + 0.5) * 1.1920928955078125e-7;
}

// Standard normals by Box and Muller: sqrt(-2 log u0) (cos, sin)(2 pi u1), and likewise (u2, u3).
fn philox_normal4(counter: vec4<u32>, key: vec2<u32>) -> vec4<f32> {
    let u = philox_uniform4(counter, key);
    let first = sqrt(-2.0 * log_accurate(u.x)) * sincos_turns(u.y);
    let second = sqrt(-2.0 * log_accurate(u.z)) * sincos_turns(u.w);
    return vec4<f32>(first.y, first.x, second.y, second.x);
}
