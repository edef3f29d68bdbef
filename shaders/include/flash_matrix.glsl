// FlashAttention (Dao et al. 2022) on matrix units (KHR cooperative matrix), f16 operands and f32 sums. A workgroup of
// four subgroups of 32 takes 64 queries of one head, a subgroup 16 of them, and walks the keys in tiles of 32.
//
// The includer has D (a multiple of 16) and says what lies where, in vectors of eight elements:
//     uvec4 query(uint r, uint d8)    query r of the tile, zeros past the last one
//     uvec4 key(uint j, uint d8), uvec4 value(uint j, uint d8)    zeros past the last key
//     bool sees(uint r, uint j)       whether query r of the tile attends to key j
//     void result(uint r, uint d8, uvec4 v)    takes the output, and ignores rows past the last query
//
// A fragment does not tell which of its elements is which. Where rows matter, in the softmax, it goes through shared
// memory: a pair of lanes owns a row, each lane half of it. Rows of the output are rescaled by an element-wise product
// with a fragment whose rows are constant, and only when some maximum rose.

const uint TILE_Q = 64;
const uint TILE_K = 32;
const uint D8 = D / 8;
// One padding vector a line, so that fragment loads hit different banks.
const uint LINE = D8 + 1;
const uint STAGE_LINE = TILE_K / 4 + 1;
// Queries once; then keys, and values behind them.
shared uvec4 tile[TILE_Q * LINE];
shared uvec4 stage[4 * 16 * STAGE_LINE];

#define SUM_FRAGMENT coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define LEFT_FRAGMENT coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define RIGHT_FRAGMENT coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB>

// The stage of a subgroup is its own.
void meet() {
    subgroupMemoryBarrierShared();
    subgroupBarrier();
}

uvec4 pack(vec4 a, vec4 b) {
    return uvec4(packHalf2x16(a.xy), packHalf2x16(a.zw), packHalf2x16(b.xy), packHalf2x16(b.zw));
}

// A fragment whose row r holds what the pair of lanes of row r gives.
SUM_FRAGMENT rows_of(float value, uint base, uint row, uint part) {
    meet();
    uvec4 four = floatBitsToUint(vec4(value));
    stage[base + row * STAGE_LINE + 2 * part] = four;
    stage[base + row * STAGE_LINE + 2 * part + 1] = four;
    meet();
    SUM_FRAGMENT rows;
    coopMatLoad(rows, stage, base, STAGE_LINE, gl_CooperativeMatrixLayoutRowMajor);
    return rows;
}

// Keys from .. to; `scale` stands before each score.
void flash(uint from, uint to, float scale) {
    uint t = gl_LocalInvocationID.x;
    uint base = gl_SubgroupID * 16 * STAGE_LINE;
    uint row = gl_SubgroupInvocationID / 2;
    uint part = gl_SubgroupInvocationID % 2;
    uint r = gl_SubgroupID * 16 + row;

    for (uint e = t; e < TILE_Q * D8; e += LOCAL_X) {
        tile[e / D8 * LINE + e % D8] = query(e / D8, e % D8);
    }
    barrier();
    LEFT_FRAGMENT q[D / 16];
    SUM_FRAGMENT o[D / 16];
    [[unroll]] for (uint c = 0; c < D / 16; c++) {
        coopMatLoad(q[c], tile, gl_SubgroupID * 16 * LINE + 2 * c, LINE, gl_CooperativeMatrixLayoutRowMajor);
        o[c] = SUM_FRAGMENT(0.0);
    }
    // Of this lane's row: the largest score so far in units of log 2, and the sum of powers below it.
    const float LOG2_E = 1.4426950408889634;
    float peak = -1.0e30;
    float total = 0.0;

    for (uint k0 = from; k0 < to; k0 += TILE_K) {
        barrier();
        for (uint e = t; e < TILE_K * D8; e += LOCAL_X) {
            tile[e / D8 * LINE + e % D8] = key(k0 + e / D8, e % D8);
            tile[(TILE_K + e / D8) * LINE + e % D8] = value(k0 + e / D8, e % D8);
        }
        barrier();
        [[unroll]] for (uint n = 0; n < TILE_K / 16; n++) {
            SUM_FRAGMENT s = SUM_FRAGMENT(0.0);
            [[unroll]] for (uint c = 0; c < D / 16; c++) {
                RIGHT_FRAGMENT k;
                coopMatLoad(k, tile, 16 * n * LINE + 2 * c, LINE, gl_CooperativeMatrixLayoutColumnMajor);
                s = coopMatMulAdd(q[c], k, s);
            }
            coopMatStore(s, stage, base + 4 * n, STAGE_LINE, gl_CooperativeMatrixLayoutRowMajor);
        }
        meet();

        vec4 p[4];
        float top = peak;
        [[unroll]] for (uint v = 0; v < 4; v++) {
            p[v] = uintBitsToFloat(stage[base + row * STAGE_LINE + 4 * part + v]) * (scale * LOG2_E);
            [[unroll]] for (uint d = 0; d < 4; d++) {
                p[v][d] = sees(r, k0 + 16 * part + 4 * v + d) ? p[v][d] : -2.0e30;
                top = max(top, p[v][d]);
            }
        }
        top = max(top, subgroupShuffleXor(top, 1));
        float decay = exp2(peak - top);
        peak = top;
        float sum = 0.0;
        [[unroll]] for (uint v = 0; v < 4; v++) {
            p[v] = exp2(p[v] - top);
            sum += p[v].x + p[v].y + p[v].z + p[v].w;
        }
        total = total * decay + sum + subgroupShuffleXor(sum, 1);

        if (subgroupMin(decay) < 1.0) {
            SUM_FRAGMENT decays = rows_of(decay, base, row, part);
            [[unroll]] for (uint c = 0; c < D / 16; c++) {
                o[c] = o[c] * decays;
            }
        }
        meet();
        stage[base + row * STAGE_LINE + 2 * part] = pack(p[0], p[1]);
        stage[base + row * STAGE_LINE + 2 * part + 1] = pack(p[2], p[3]);
        meet();
        [[unroll]] for (uint n = 0; n < TILE_K / 16; n++) {
            LEFT_FRAGMENT weights;
            coopMatLoad(weights, stage, base + 2 * n, STAGE_LINE, gl_CooperativeMatrixLayoutRowMajor);
            [[unroll]] for (uint c = 0; c < D / 16; c++) {
                RIGHT_FRAGMENT v;
                coopMatLoad(v, tile, (TILE_K + 16 * n) * LINE + 2 * c, LINE, gl_CooperativeMatrixLayoutRowMajor);
                o[c] = coopMatMulAdd(weights, v, o[c]);
            }
        }
    }

    // A row that sees nothing is zero.
    SUM_FRAGMENT inverse = rows_of(total > 0.0 ? 1.0 / total : 0.0, base, row, part);
    [[unroll]] for (uint c = 0; c < D / 16; c++) {
        o[c] = o[c] * inverse;
        meet();
        coopMatStore(o[c], stage, base, STAGE_LINE, gl_CooperativeMatrixLayoutRowMajor);
        meet();
        uint at = base + row * STAGE_LINE + 2 * part;
        result(r, 2 * c + part, pack(uintBitsToFloat(stage[at]), uintBitsToFloat(stage[at + 1])));
    }
}
