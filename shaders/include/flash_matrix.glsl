// `flash` of flash.glsl where nobody knows which invocation holds what of a fragment.
//
// A fragment does not tell which of its elements is which. Where rows matter, in the softmax, it goes through shared
// memory: a pair of lanes owns a row, each lane half of it. Rows of the output are rescaled by an element-wise product
// with a fragment whose rows are constant.

const uint TILE_K = 32;
// One padding vector a line, so that fragment loads hit different banks.
const uint LINE = D8 + 1;
const uint STAGE_LINE = 5;
const uint STAGE = 16 * STAGE_LINE;
// Keys, values behind them, and behind those a stage for each subgroup. At first queries, of which so many vectors at a time
// go there that they need no more room.
const uint Q8 = D8 < 8 ? D8 : 8;
const uint Q_LINE = Q8 + 1;
const uint STAGES = 2 * TILE_K * LINE;
shared uvec4 tile[max(TILE_Q * Q_LINE, STAGES + SUBGROUPS * STAGE)];
// Vectors of keys, and of values, that an invocation brings.
const uint BRINGS = (TILE_K * D8 + LOCAL_X - 1) / LOCAL_X;

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
    tile[base + row * STAGE_LINE + 2 * part] = four;
    tile[base + row * STAGE_LINE + 2 * part + 1] = four;
    meet();
    SUM_FRAGMENT rows;
    coopMatLoad(rows, tile, base, STAGE_LINE, gl_CooperativeMatrixLayoutRowMajor);
    return rows;
}

// Text, not a function: what is on its way must be in registers of `flash`.
#define BRING(k0) \
    [[unroll]] for (uint i = 0; i < BRINGS; i++) { \
        uint e = t + i * LOCAL_X; \
        if (TILE_K * D8 % LOCAL_X == 0 || e < TILE_K * D8) { \
            next_k[i] = key((k0) + e / D8, e % D8); \
            next_v[i] = value((k0) + e / D8, e % D8); \
        } \
    }

void flash(uint from, uint to, float scale) {
    uint t = gl_LocalInvocationID.x;
    uint base = STAGES + gl_SubgroupID * STAGE;
    uint row = gl_SubgroupInvocationID / 2;
    uint part = gl_SubgroupInvocationID % 2;
    uint r = gl_SubgroupID * 16 + row;
    uvec2 seen = sees(r);

    uvec4 next_k[BRINGS];
    uvec4 next_v[BRINGS];
    BRING(from)
    LEFT_FRAGMENT q[D / 16];
    [[unroll]] for (uint first = 0; first < D8; first += Q8) {
        barrier();
        for (uint e = t; e < TILE_Q * Q8; e += LOCAL_X) {
            uint d8 = first + e % Q8;
            tile[e / Q8 * Q_LINE + e % Q8] = d8 < D8 ? query(e / Q8, d8) : uvec4(0);
        }
        barrier();
        [[unroll]] for (uint c = first / 2; c < (first + Q8) / 2 && c < D / 16; c++) {
            coopMatLoad(q[c], tile, gl_SubgroupID * 16 * Q_LINE + 2 * c - first, Q_LINE, gl_CooperativeMatrixLayoutRowMajor);
        }
    }
    SUM_FRAGMENT o[D / 16];
    [[unroll]] for (uint c = 0; c < D / 16; c++) {
        o[c] = SUM_FRAGMENT(0.0);
    }
    // Of this lane's row: the number that powers are relative to, and the sum of those powers.
    const float LOG2_E = 1.4426950408889634;
    float peak = -1.0e30;
    float total = 0.0;

    for (uint k0 = from; k0 < to; k0 += TILE_K) {
        barrier();
        [[unroll]] for (uint i = 0; i < BRINGS; i++) {
            uint e = t + i * LOCAL_X;
            if (TILE_K * D8 % LOCAL_X == 0 || e < TILE_K * D8) {
                tile[e / D8 * LINE + e % D8] = next_k[i];
                tile[(TILE_K + e / D8) * LINE + e % D8] = next_v[i];
            }
        }
        barrier();
        if (k0 + TILE_K < to) {
            BRING(k0 + TILE_K)
        }

        // Lane `part` of a row has columns 16 n + 8 part .. + 8, as p[2 n] and p[2 n + 1].
        vec4 p[4];
        [[unroll]] for (uint n = 0; n < TILE_K / 16; n++) {
            SUM_FRAGMENT s = SUM_FRAGMENT(0.0);
            [[unroll]] for (uint c = 0; c < D / 16; c++) {
                RIGHT_FRAGMENT k;
                coopMatLoad(k, tile, 16 * n * LINE + 2 * c, LINE, gl_CooperativeMatrixLayoutColumnMajor);
                s = coopMatMulAdd(q[c], k, s);
            }
            meet();
            coopMatStore(s, tile, base, STAGE_LINE, gl_CooperativeMatrixLayoutRowMajor);
            meet();
            [[unroll]] for (uint v = 0; v < 2; v++) {
                p[2 * n + v] = uintBitsToFloat(tile[base + row * STAGE_LINE + 2 * part + v]) * (scale * LOG2_E);
            }
        }
        if (k0 < seen.x || k0 + TILE_K > seen.y) {
            [[unroll]] for (uint i = 0; i < TILE_K / 2; i++) {
                uint j = k0 + 16 * (i / 8) + 8 * part + i % 8;
                p[i / 4][i % 4] = j >= seen.x && j < seen.y ? p[i / 4][i % 4] : -2.0e30;
            }
        }
        vec4 tops = max(max(p[0], p[1]), max(p[2], p[3]));
        float top = max(max(tops.x, tops.y), max(tops.z, tops.w));
        top = max(top, subgroupShuffleXor(top, 1));
        float decay = 1.0;
        if (top > peak + ROOM) {
            decay = exp2(peak - top);
            peak = top;
        }
        vec4 sums = vec4(0.0);
        [[unroll]] for (uint v = 0; v < 4; v++) {
            p[v] = exp2(p[v] - peak);
            sums += p[v];
        }
        float sum = sums.x + sums.y + sums.z + sums.w;
        total = total * decay + sum + subgroupShuffleXor(sum, 1);

        if (subgroupMin(decay) < 1.0) {
            SUM_FRAGMENT decays = rows_of(decay, base, row, part);
            [[unroll]] for (uint c = 0; c < D / 16; c++) {
                o[c] = o[c] * decays;
            }
        }
        meet();
        tile[base + row * STAGE_LINE + part] = pack(p[0], p[1]);
        tile[base + row * STAGE_LINE + 2 + part] = pack(p[2], p[3]);
        meet();
        [[unroll]] for (uint n = 0; n < TILE_K / 16; n++) {
            LEFT_FRAGMENT weights;
            coopMatLoad(weights, tile, base + 2 * n, STAGE_LINE, gl_CooperativeMatrixLayoutRowMajor);
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
        coopMatStore(o[c], tile, base, STAGE_LINE, gl_CooperativeMatrixLayoutRowMajor);
        meet();
        uint at = base + row * STAGE_LINE + 2 * part;
        result(r, 2 * c + part, pack(uintBitsToFloat(tile[at]), uintBitsToFloat(tile[at + 1])));
    }
}
