// sum + a b^T, of which each row is a column of the WGSL matrix.
fn outer_add(sum: mat4x4<f32>, a: vec4<f32>, b: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(vec4(a.x), b, sum[0]), fma(vec4(a.y), b, sum[1]),
        fma(vec4(a.z), b, sum[2]), fma(vec4(a.w), b, sum[3]));
}
