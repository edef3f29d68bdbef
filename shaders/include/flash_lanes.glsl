// `flash` of flash.glsl on fragments that are filled from registers (fragments.glsl).
//
// An invocation has parts of two rows of scores and of the output. Scores become the left operand of the second product
// where they are, since sums and left operands lie alike; the maximum and the sum of a row meet by shuffles among four
// invocations. What it has of the output are eight neighbours of each 32.

const uint TILE_K = KEYS;
// Vectors from key to key: two keys of four vectors each meet different banks.
const uint K_LINE = D8 % 8 == 0 ? D8 + 4 : D8;
// Values are laid out as operands, four of them to a line. A vector holds two neighbouring elements of each; elements 2 i and
// 2 i + 1 of every eight are in quarter i of the line.
const uint V_QUARTER = D8 + 1;
const uint V_LINE = 4 * D8 + 6;
// Keys, and values behind them.
const uint VALUES = TILE_K * K_LINE;
shared uvec4 tile[VALUES + TILE_K / 4 * V_LINE];
// Vectors of keys, and of values by four, that an invocation brings.
const uint K_ITEMS = TILE_K * D8;
const uint V_ITEMS = TILE_K / 4 * D8;
const uint K_BRINGS = (K_ITEMS + LOCAL_X - 1) / LOCAL_X;
const uint V_BRINGS = (V_ITEMS + LOCAL_X - 1) / LOCAL_X;

// Text, not a function: what is on its way must be in registers of `flash`.
#define BRING(k0) \
    [[unroll]] for (uint i = 0; i < K_BRINGS; i++) { \
        uint e = t + i * LOCAL_X; \
        if (K_ITEMS % LOCAL_X == 0 || e < K_ITEMS) { \
            next_k[i] = key((k0) + e / D8, e % D8); \
        } \
    } \
    [[unroll]] for (uint i = 0; i < V_BRINGS; i++) { \
        uint e = t + i * LOCAL_X; \
        if (V_ITEMS % LOCAL_X == 0 || e < V_ITEMS) { \
            [[unroll]] for (uint j = 0; j < 4; j++) { \
                next_v[i][j] = value((k0) + 4 * (e / D8) + j, e % D8); \
            } \
        } \
    }

void flash(uint from, uint to, float scale) {
    uint t = gl_LocalInvocationID.x;
    uint g = gl_SubgroupInvocationID / 4;
    uint c = gl_SubgroupInvocationID % 4;
    uint row = gl_SubgroupID * 16 + g;

    uvec4 next_k[K_BRINGS];
    uvec4 next_v[V_BRINGS][4];
    BRING(from)
    const float LOG2_E = 1.4426950408889634;
    // A number that is never zero stands before what is not seen.
    float factor = max(abs(scale) * LOG2_E, 1.0e-18);
    uint sign = scale < 0.0 ? 0x80008000 : 0;
    LEFT_FRAGMENT q[D / 16];
    [[unroll]] for (uint b = 0; b < D / 32; b++) {
        uvec4 upper = query(row, 4 * b + c) ^ sign;
        uvec4 lower = query(row + 8, 4 * b + c) ^ sign;
        uvec4 first = uvec4(upper.xy, lower.xy);
        uvec4 second = uvec4(upper.zw, lower.zw);
        FILL(q[2 * b], first)
        FILL(q[2 * b + 1], second)
    }
    SUM_FRAGMENT o[D / 16];
    [[unroll]] for (uint i = 0; i < D / 16; i++) {
        o[i] = SUM_FRAGMENT(0.0);
    }
    // Of rows g and g + 8: what they see, and where all 16 rows see everything, and something.
    uvec2 seen[2] = uvec2[2](sees(row), sees(row + 8));
    uint all_from = subgroupMax(max(seen[0].x, seen[1].x));
    uint all_to = subgroupMin(min(seen[0].y, seen[1].y));
    uint any_to = subgroupMax(max(seen[0].y, seen[1].y));
    // Of rows g and g + 8: the numbers that powers are relative to, and this invocation's part of the sums of those powers.
    vec2 peak = vec2(-1.0e20);
    vec2 total = vec2(0.0);

    for (uint k0 = from; k0 < to; k0 += TILE_K) {
        barrier();
        [[unroll]] for (uint i = 0; i < K_BRINGS; i++) {
            uint e = t + i * LOCAL_X;
            if (K_ITEMS % LOCAL_X == 0 || e < K_ITEMS) {
                tile[e / D8 * K_LINE + e % D8] = next_k[i];
            }
        }
        [[unroll]] for (uint i = 0; i < V_BRINGS; i++) {
            uint e = t + i * LOCAL_X;
            if (V_ITEMS % LOCAL_X == 0 || e < V_ITEMS) {
                [[unroll]] for (uint w = 0; w < 4; w++) {
                    tile[VALUES + e / D8 * V_LINE + w * V_QUARTER + e % D8] =
                        uvec4(low_halves(next_v[i][0][w], next_v[i][1][w]), low_halves(next_v[i][2][w], next_v[i][3][w]),
                              high_halves(next_v[i][0][w], next_v[i][1][w]), high_halves(next_v[i][2][w], next_v[i][3][w]));
                }
            }
        }
        barrier();
        if (k0 + TILE_K < to) {
            BRING(k0 + TILE_K)
        }
        // A subgroup whose rows end before these keys has nothing to do with them.
        if (k0 < any_to) {
            SUM_FRAGMENT s[TILE_K / 16];
            [[unroll]] for (uint n = 0; n < TILE_K / 16; n++) {
                s[n] = SUM_FRAGMENT(0.0);
            }
            [[unroll]] for (uint b = 0; b < D / 32; b++) {
                [[unroll]] for (uint n = 0; n < TILE_K / 16; n++) {
                    uint at = (16 * n + lane_column(g)) * K_LINE + 4 * b + c;
                    uvec4 left = tile[at];
                    uvec4 right = tile[at + 2 * K_LINE];
                    uvec4 first = uvec4(left.xy, right.xy);
                    uvec4 second = uvec4(left.zw, right.zw);
                    RIGHT_FRAGMENT k;
                    FILL(k, first)
                    s[n] = coopMatMulAdd(q[2 * b], k, s[n]);
                    FILL(k, second)
                    s[n] = coopMatMulAdd(q[2 * b + 1], k, s[n]);
                }
            }
            // Element e of s[n] belongs to row g + 8 (e / 4) and to key 16 n + 4 c + e % 4.
            if (k0 < all_from || k0 + TILE_K > all_to) {
                [[unroll]] for (uint n = 0; n < TILE_K / 16; n++) {
                    [[unroll]] for (uint e = 0; e < 8; e++) {
                        uint j = k0 + 16 * n + 4 * c + e % 4;
                        if (j < seen[e / 4].x || j >= seen[e / 4].y) {
                            s[n][e] = -3.0e38;
                        }
                    }
                }
            }
            vec2 top = vec2(s[0][0], s[0][4]);
            [[unroll]] for (uint n = 0; n < TILE_K / 16; n++) {
                [[unroll]] for (uint e = 0; e < 8; e++) {
                    top[e / 4] = max(top[e / 4], s[n][e]);
                }
            }
            top *= factor;
            if (subgroupOr(uint(any(greaterThan(top, peak + ROOM)))) != 0) {
                top = max(top, subgroupShuffleXor(top, 1));
                top = max(top, subgroupShuffleXor(top, 2));
                vec2 higher = mix(peak, top, greaterThan(top, peak + ROOM));
                vec2 decay = exp2(peak - higher);
                peak = higher;
                total *= decay;
                [[unroll]] for (uint i = 0; i < D / 16; i++) {
                    [[unroll]] for (uint e = 0; e < 8; e++) {
                        o[i][e] = o[i][e] * decay[e / 4];
                    }
                }
            }
            [[unroll]] for (uint n = 0; n < TILE_K / 16; n++) {
                LEFT_FRAGMENT weights;
                [[unroll]] for (uint e = 0; e < 8; e++) {
                    float p = exp2(fma(s[n][e], factor, -peak[e / 4]));
                    total[e / 4] += p;
                    weights[e] = float16_t(p);
                }
                [[unroll]] for (uint i = 0; i < D / 16; i++) {
                    uint quarter = 2 * (i % 2) + g % 2;
                    uvec4 pairs = tile[VALUES + (4 * n + c) * V_LINE + quarter * V_QUARTER + i / 2 * 4 + g / 2];
                    RIGHT_FRAGMENT v;
                    FILL(v, pairs)
                    o[i] = coopMatMulAdd(weights, v, o[i]);
                }
            }
        }
    }

    total += subgroupShuffleXor(total, 1);
    total += subgroupShuffleXor(total, 2);
    [[unroll]] for (uint h = 0; h < 2; h++) {
        // A row that sees nothing is zero.
        float inverse = total[h] > 0.0 ? 1.0 / total[h] : 0.0;
        [[unroll]] for (uint b = 0; b < D / 32; b++) {
            // Elements 0 and 2 of each fragment are neighbours, from an even quarter, and so are 1 and 3, from an odd one.
            uvec4 v = uvec4(packHalf2x16(vec2(o[2 * b][4 * h], o[2 * b][4 * h + 2]) * inverse),
                            packHalf2x16(vec2(o[2 * b][4 * h + 1], o[2 * b][4 * h + 3]) * inverse),
                            packHalf2x16(vec2(o[2 * b + 1][4 * h], o[2 * b + 1][4 * h + 2]) * inverse),
                            packHalf2x16(vec2(o[2 * b + 1][4 * h + 1], o[2 * b + 1][4 * h + 3]) * inverse));
            result(row + 8 * h, 4 * b + c, v);
        }
    }
}
