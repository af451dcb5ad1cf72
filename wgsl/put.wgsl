//!family
// out[... + index[...] step] = x[...] on a grid; one invocation an entry. Where several entries have the
// same place, one of them is written.
//!include grid

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let i = group_index(inv) * WG + inv.local;
    if (i >= params.count) { return; }
    let place = grid_place(i);
    let out_place = params.out_at + dot(place, vec4(params.out_0, params.out_1, params.out_2, params.out_3));
    let x_place = params.x_at + dot(place, vec4(params.x_0, params.x_1, params.x_2, params.x_3));
    let index_place = dot(place, vec4(params.index_0, params.index_1, params.index_2, params.index_3));
    let index = index[params.index_at + index_place];
    let at = select(index, index + i32(params.size), index < 0);
    if (at >= 0 && at < i32(params.size)) {
        store_out(out_place + u32(at) * params.step, load_x(x_place));
    }
}
