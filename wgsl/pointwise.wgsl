//!family
// out[...] = f(a[...], b[...], ...) for every entry of a grid of up to four dimensions. `count` is the
// number of entries; each array starts at `<name>_at` and is walked by its own four strides, 0 where it
// is broadcast. With rank 0 all arrays are contiguous. Each invocation takes PER entries, WG apart.
//!if FLOATS
//!include floats
//!endif
//!if REMAINDER
//!include remainder
//!endif
//!if MATH
//!include math
//!endif
//!if SPECIAL
//!include special
//!endif

fn evaluate($ARGUMENTS) -> $RESULT {
    $BODY
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let first = group_index(inv) * (WG * PER) + inv.local;
    for (var step = 0u; step < PER; step += 1u) {
        let i = first + step * WG;
        if (i >= params.count) { return; }
        var at0 = 0u;
        var at1 = 0u;
        var at2 = 0u;
        var at3 = i;
        if (params.rank != 0u) {
            at3 = i % params.size3;
            at2 = i / params.size3;
            at1 = at2 / params.size2;
            at2 = at2 % params.size2;
            at0 = at1 / params.size1;
            at1 = at1 % params.size1;
        }
        $STORE
    }
}
