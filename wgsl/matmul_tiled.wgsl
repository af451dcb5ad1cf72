//!family
// out = act(alpha op(a) op(b) + bias + out) for each matrix of a batch; or, with more than one split,
// sums over shares of the depth, for matmul_sum to add.
//!include matmul_tile
