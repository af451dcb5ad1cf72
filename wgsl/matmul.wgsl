// out = op(a) op(b), op(m) = m or its transpose.
//!include matmul_tile
