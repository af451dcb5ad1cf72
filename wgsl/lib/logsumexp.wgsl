// A running log-sum-exp (peak, sum of exp(x - peak)) in one pass: each invocation folds its entries in,
// then all join. One exponential an entry, and none that can overflow (Milakov and Gimelshein 2018,
// "Online normalizer calculation for softmax", algorithm 3).
//!include reduce
//!include math

const LOGSUMEXP_EMPTY: vec2<f32> = vec2<f32>(-3.4e38, 0.0);

fn logsumexp_fold(state: vec2<f32>, x: f32) -> vec2<f32> {
    let rise = x - state.x;
    let share = exp_accurate(-abs(rise));
    return select(vec2(state.x, state.y + share), vec2(x, state.y * share + 1.0), rise > 0.0);
}

fn logsumexp_join(state: vec2<f32>, inv: Invocation) -> vec2<f32> {
    let peak = reduce_max(state.x, inv);
    return vec2(peak, reduce_sum(state.y * exp_accurate(state.x - peak), inv));
}
