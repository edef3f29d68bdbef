// Fragments of 16 x 16 filled from registers, on devices where it is known which invocation holds what (feature
// `coopmat_lanes`): invocation 4 g + c of a subgroup has of rows g and g + 8 of A, and of columns g and g + 8 of B, two
// pairs each, at k = 2 c and 2 c + 8; and of the sums rows g and g + 8 at those columns.

#define SUM_FRAGMENT coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define LEFT_FRAGMENT coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define RIGHT_FRAGMENT coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB>

// A fragment from its pairs, first row (A) or column (B) g, then g + 8.
#define FILL(fragment, pairs) { \
    [[unroll]] for (uint p = 0; p < 4; p++) { \
        f16vec2 pair = unpackFloat2x16(pairs[p]); \
        fragment[2 * p] = pair.x; \
        fragment[2 * p + 1] = pair.y; \
    } }

uint low_halves(uint a, uint b) {
    return bitfieldInsert(a, b, 16, 16);
}

uint high_halves(uint a, uint b) {
    return packFloat2x16(f16vec2(unpackFloat2x16(a).y, unpackFloat2x16(b).y));
}

// Where columns are dealt out so that an invocation ends up with sums of four neighbours, 4 c to 4 c + 3: the first of the
// two columns of 16 that invocation 4 g + c has; the other one is two further.
uint lane_column(uint g) {
    return g / 2 * 4 + g % 2;
}
