// One workgroup streams over splats and keeps, for its row, a running log-sum-exp and two running
// weighted sums, so that nothing of size rows x splats is ever stored. The including kernel defines
//     query(i) -> f32             the vector that every splat is multiplied with, flat index
//     splat_at(row, j) -> i32     splat number of the j-th entry, negative for none
//     splat_terms(row, k, dot) -> vec3<f32>   score, factor of mu_k in the vector sum, scalar summand
//     sum_get(i), sum_put(i, v)   the row's vector sum in an output array, flat index
// A dot product is split over LANES invocations, which read neighbouring words of one splat; the
// vector sum is split over coordinates and skips splats of negligible weight.
//!include reduce

const STREAM_LANES: u32 = 8u;
const STREAM_PITCH: u32 = 9u; // one more than LANES, so that rows start in different banks
const STREAM_LOWEST: f32 = -3.0e38; // stands for the score of a splat that is not there
const STREAM_NEGLIGIBLE: f32 = -36.0; // 2^20 scores so far below the peak do not change the sum
var<workgroup> stream_partials: array<f32, WG * STREAM_PITCH>;
var<workgroup> stream_factors: array<f32, WG>;
var<workgroup> stream_splats: array<i32, WG>;

struct Streamed {
    log_sum: f32, // log sum exp(score); minus infinity where there is no splat
    scale: f32,   // what the stored vector sum is to be multiplied with: 1 / sum exp(score - peak)
    mean: f32,    // softmax-weighted mean of the scalar summands
}

fn stream(row: u32, count: u32, inv: Invocation) -> Streamed {
    let base = row * params.D;
    var peak = STREAM_LOWEST;
    var total = 0.0;
    var scalar = 0.0;
    for (var i = inv.local; i < params.D; i += WG) { sum_put(base + i, 0.0); }
    for (var first = 0u; first < count; first += WG) {
        var own = -1;
        if (first + inv.local < count) { own = splat_at(row, first + inv.local); }
        stream_splats[inv.local] = own;
        workgroupBarrier();
        let lane = inv.local % STREAM_LANES;
        for (var j = inv.local / STREAM_LANES; j < WG; j += WG / STREAM_LANES) {
            let k = stream_splats[j];
            var partial = 0.0;
            if (k >= 0) {
                let start = u32(k) * params.D;
                for (var i = lane; i < params.D; i += STREAM_LANES) {
                    partial += query(base + i) * load_mu(start + i);
                }
            }
            stream_partials[j * STREAM_PITCH + lane] = partial;
        }
        workgroupBarrier();
        var terms = vec3<f32>(STREAM_LOWEST, 0.0, 0.0);
        if (own >= 0) {
            var dot = 0.0;
            for (var l = 0u; l < STREAM_LANES; l += 1u) {
                dot += stream_partials[inv.local * STREAM_PITCH + l];
            }
            terms = splat_terms(row, u32(own), dot);
        }
        let higher = max(peak, reduce_max(terms.x, inv));
        var weight = 0.0;
        if (terms.x - higher > STREAM_NEGLIGIBLE && own >= 0) { weight = exp(terms.x - higher); }
        let rescale = exp(peak - higher);
        peak = higher;
        total = total * rescale + weight;
        scalar = scalar * rescale + weight * terms.z;
        stream_factors[inv.local] = weight * terms.y;
        workgroupBarrier();
        for (var i = inv.local; i < params.D; i += WG) {
            var sum = 0.0; // of this block alone: rounding then grows with N / WG, not with N
            for (var j = 0u; j < WG; j += 1u) {
                let factor = stream_factors[j];
                if (factor != 0.0) { sum += factor * load_mu(u32(stream_splats[j]) * params.D + i); }
            }
            sum_put(base + i, sum_get(base + i) * rescale + sum);
        }
        workgroupBarrier();
    }
    let mass = reduce_sum(total, inv);
    let summed = reduce_sum(scalar, inv);
    if (mass == 0.0) { // minus infinity is no WGSL constant
        return Streamed(bitcast<f32>(0xff800000u + (row & 0u)), 0.0, 0.0);
    }
    return Streamed(peak + log(mass), 1.0 / mass, summed / mass);
}
