// Entry i of a move by index on a grid: where it stands in `out` and in `x`, the place `at` that its index
// names, counted from `size` if negative, and whether that lies in 0 .. size - 1.
//!include grid
struct Entry { out_place: u32, x_place: u32, at: u32, named: bool }

fn indexed_entry(i: u32) -> Entry {
    let place = grid_place(i);
    let out_steps = vec4(params.out_0, params.out_1, params.out_2, params.out_3);
    let x_steps = vec4(params.x_0, params.x_1, params.x_2, params.x_3);
    let index_steps = vec4(params.index_0, params.index_1, params.index_2, params.index_3);
    let given = index[params.index_at + dot(place, index_steps)];
    let at = select(given, given + i32(params.size), given < 0);
    return Entry(
        params.out_at + dot(place, out_steps), params.x_at + dot(place, x_steps),
        u32(at), at >= 0 && at < i32(params.size));
}
