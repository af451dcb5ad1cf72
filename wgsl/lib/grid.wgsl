// The place of entry i on a grid of `count` entries in four dimensions, of which the last three have
// sizes size1 to size3; with rank 0 it has one dimension.
fn grid_place(i: u32) -> vec4<u32> {
    if (params.rank == 0u) { return vec4(0u, 0u, 0u, i); }
    let outer = i / params.size3;
    let outermost = outer / params.size2;
    return vec4(outermost / params.size1, outermost % params.size1, outer % params.size2, i % params.size3);
}
