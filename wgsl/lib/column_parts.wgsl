// Sums over rows: a workgroup takes COLUMNS columns of one of P parts of the rows. Its WG / COLUMNS lanes
// share the rows of the part; one invocation adds the lanes up in order.
struct ColumnPart { part: u32, column: u32, first: u32, last: u32 }
var<workgroup> column_lanes: array<vec2<f32>, WG>;

// The invocation's column, and the rows first, first + WG / COLUMNS, ... below last that it sums.
fn column_part(rows: u32, columns: u32, parts: u32, inv: Invocation) -> ColumnPart {
    let across = (columns + COLUMNS - 1u) / COLUMNS;
    let group = group_index(inv);
    let step = (rows + parts - 1u) / parts;
    let part = group / across;
    return ColumnPart(
        part, group % across * COLUMNS + inv.local % COLUMNS,
        part * step + inv.local / COLUMNS, min((part + 1u) * step, rows));
}

// Whether the invocation writes the sums of its column.
fn column_writes(place: ColumnPart, columns: u32, parts: u32, inv: Invocation) -> bool {
    return inv.local < COLUMNS && place.column < columns && place.part < parts;
}

fn column_join(value: vec2<f32>, inv: Invocation) -> vec2<f32> {
    column_lanes[inv.local] = value;
    workgroupBarrier();
    var total = column_lanes[inv.local % COLUMNS];
    for (var lane = 1u; lane < WG / COLUMNS; lane += 1u) {
        total += column_lanes[inv.local % COLUMNS + lane * COLUMNS];
    }
    return total;
}
