// The row of `x` and `v` that this workgroup works on, straight in storage.
var<private> row_base: u32;

fn get_x(i: u32) -> f32 { return x[row_base + i]; }
fn get_v(i: u32) -> f32 { return v[row_base + i]; }
fn set_x(i: u32, value: f32) { x[row_base + i] = value; }
fn set_v(i: u32, value: f32) { v[row_base + i] = value; }
