// grad_weight[v] = sum of grad_out[b] over the places b of token v, in their order; nothing for the
// padding token. A workgroup takes ROWS tokens: it finds their segments of the sorted ids by bisection,
// then its invocations share the columns.
var<workgroup> bounds: array<u32, ROWS + 1u>;

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let first = group_index(inv) * ROWS;
    if (first >= params.V) { return; }
    if (inv.local <= ROWS) {
        let token = i32(first + inv.local);
        var low = 0u;
        var high = params.B;
        while (low < high) {
            let middle = (low + high) / 2u;
            if (sorted_ids[middle] < token) { low = middle + 1u; } else { high = middle; }
        }
        bounds[inv.local] = low;
    }
    workgroupBarrier();
    let rows = min(ROWS, params.V - first);
    for (var row = 0u; row < rows; row += 1u) {
        let padding = i32(first + row) == params.padding_index;
        let begin = bounds[row];
        let end = select(bounds[row + 1u], begin, padding);
        for (var column = inv.local; column < params.D; column += WG) {
            var sum = 0.0;
            for (var place = begin; place < end; place += 1u) {
                sum += load_grad_out(u32(order[place]) * params.D + column);
            }
            store_grad_weight((first + row) * params.D + column, sum);
        }
    }
}
