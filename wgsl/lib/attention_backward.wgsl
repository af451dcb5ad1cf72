// The matrices that both backwards of attention read.
//!include attention

const Q: u32 = 0u;
const K: u32 = 1u;
const V: u32 = 2u;
const GRAD: u32 = 3u;

fn fetch(source: u32, row: u32, column: u32) -> f32 {
    let i = row * params.D + column;
    switch source {
        case Q: { return load_q(i); }
        case K: { return load_k(i); }
        case V: { return load_v(i); }
        default: { return load_grad_out(i); }
    }
}
