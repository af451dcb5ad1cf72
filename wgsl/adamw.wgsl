// One AdamW step of up to TENSORS tensors; four entries an invocation, WG apart.
const SHARE: u32 = 4u * WG;

// (weight, mean, square) after the step.
fn updated(weight: f32, gradient: f32, mean: f32, square: f32) -> vec3<f32> {
    let g = gradient * load_scale(0u);
    let new_mean = mean + params.mean_rate * (g - mean);
    let new_square = params.square_keep * square + params.square_rate * g * g;
    let divisor = sqrt(new_square) * params.square_correction + params.epsilon;
    return vec3(weight * params.decay - params.step_size * new_mean / divisor, new_mean, new_square);
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let group = group_index(inv);
    var first = 0u;
//!unroll t TENSORS
    {
        let last = first + (params.N$t + SHARE - 1u) / SHARE;
        if (group >= first && group < last) {
            for (var turn = 0u; turn < 4u; turn += 1u) {
                let i = (group - first) * SHARE + turn * WG + inv.local;
                if (i < params.N$t) {
                    let next = updated(weight$t[i], load_grad$t(i), mean$t[i], square$t[i]);
                    weight$t[i] = next.x;
                    mean$t[i] = next.y;
                    square$t[i] = next.z;
                }
            }
        }
        first = last;
    }
//!end
}
