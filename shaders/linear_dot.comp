// x w^T for few rows and w in int8 or int4, by products of four packed integers with four others. Reading w is all the
// time there is, and widening it to floats would take as long again; so x is taken apart instead, once a workgroup.
//
// x has a scale for every 32 neighbours, and each element is 128 high + low with both in int8: 15 bits for the largest,
// more than the f16 that x is stored in has over that range where neighbours are alike. Its product with w is exact.
// Scales of x and w come to it once every PER elements.
//
// A subgroup walks k, ACROSS loads of 16 bytes of DOWN neighbouring columns at a time: a tile of w, half of one, or two.
// It does so for COLUMNS such tiles that stand below each other, so that what is read of x serves as many columns, alone
// or with SPLIT - 1 others, in turns. An invocation has COLUMNS * AHEAD loads under way, the first of them while x is taken
// apart. CHUNK elements of k, whole tiles, fit into shared memory at a time. In the end the sums of a column meet there.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_integer_dot_product : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;
#define W_BY_16_BYTES
#include "include/linear_io.glsl"

#include "include/gemv_operands.glsl"

// Eight neighbours of x are an eighth, four of which are a group.
const uint EIGHTHS = CHUNK / 8;
const uint GROUPS = ROWS * CHUNK / 32;
const uint TURNS = (EIGHTHS + LOCAL_X - 1) / LOCAL_X;

const uint SUBGROUP = LOCAL_X / SUBGROUPS;
const uint DOWN = clamp(SUBGROUP / 4, 4, 8);
const uint ACROSS = SUBGROUP / DOWN;
const uint TILES = (ROW_VECTORS + 3) / 4;
// Columns of the workgroup by fours, and the sums that meet for each of them: of SPLIT subgroups, ACROSS each.
const uint FOURS = SUBGROUPS / SPLIT * COLUMNS * DOWN / 4;
const uint MEET = SPLIT * ACROSS;

// x taken apart; in the end sums, as bits.
const uint LOW = ROWS * CHUNK / 16;
shared uvec4 tile[max(2 * LOW, ROWS * FOURS * MEET)];
#include "include/apart.glsl"
shared float x_scale[GROUPS];
// The largest element of each eighth, as the bits of its magnitude: these are in the order of the numbers, and NaN is
// above all.
shared uvec4 peaks[GROUPS];
#if W_INT4
// The sum of each eighth, in levels.
shared ivec4 totals[GROUPS];
#endif
#if HAS_GAIN
shared float square_parts[ROWS * SUBGROUPS];
float squares[ROWS];
#endif

// Takes the elements from `first` on of all rows apart.
void take_apart(uint first) {
    uint t = gl_LocalInvocationID.x;
    vec4 held[ROWS * TURNS][2];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        uint row = min(gl_WorkGroupID.y * ROWS + r, m - 1);
        [[unroll]] for (uint turn = 0; turn < TURNS; turn++) {
            uint eighth = turn * LOCAL_X + t;
            // Past the end of the row there are zeros.
            bool inside = eighth < EIGHTHS && first / 8 + eighth < ROW / 8;
            vec4 v[2];
            uint peak = 0;
            [[unroll]] for (uint i = 0; i < 2; i++) {
                v[i] = vec4(0.0);
                if (inside) {
                    v[i] = x_inside(row, first / 4 + 2 * eighth + i);
#if HAS_GAIN
                    squares[r] += dot(v[i], v[i]);
                    v[i] *= gain_inside(first / 4 + 2 * eighth + i);
#endif
                }
                uvec4 bits = floatBitsToUint(v[i]) & 0x7fffffff;
                peak = max(peak, max(max(bits.x, bits.y), max(bits.z, bits.w)));
                held[r * TURNS + turn][i] = v[i];
            }
            if (eighth < EIGHTHS) {
                peaks[r * (CHUNK / 32) + eighth / 4][eighth % 4] = peak;
            }
        }
    }
    barrier();
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        [[unroll]] for (uint turn = 0; turn < TURNS; turn++) {
            uint eighth = turn * LOCAL_X + t;
            if (eighth >= EIGHTHS) {
                break;
            }
            uint group = r * (CHUNK / 32) + eighth / 4;
            uvec4 bits = peaks[group];
            float peak = uintBitsToFloat(max(max(bits.x, bits.y), max(bits.z, bits.w)));
            float levels = peak > 0.0 ? LEVELS / peak : 0.0;
            if (eighth % 4 == 0) {
                x_scale[group] = peak / LEVELS;
            }
            uvec4 a = levels_of(held[r * TURNS + turn][0], levels);
            uvec4 b = levels_of(held[r * TURNS + turn][1], levels);
#if W_INT4
            totals[group][eighth % 4] = sum_of(a, b);
#endif
            put_eighth(group, eighth % 4, a, b);
        }
    }
    barrier();
}

// The first loads of w should be on their way while x is taken apart. Compilers put them behind it, next to what uses them;
// volatile ones they leave where they are.
#if FIRST_STAYS
layout(binding = BIND_W) volatile readonly buffer In1First { uvec4 w_first[]; };
#if W_INT8
layout(binding = BIND_W) volatile readonly buffer In1FirstShared { float16_t w_first_scale[]; };
#else
layout(binding = BIND_W) volatile readonly buffer In1FirstShared { f16vec2 w_first_scale[]; };
#endif
#else
#define w_first w
#define w_first_scale w_scale
#endif

// An invocation's loads of a column: `number` counts those of its subgroup. Such a load is vector 4 * tile + part.
#if LOCAL_X / SUBGROUPS < 16
#define LOAD_TILE(number) ((number) / 2)
#define LOAD_PART(number) ((number) % 2 * 2 + gl_SubgroupInvocationID % 2)
#else
#define LOAD_TILE(number) ((number) * (ACROSS / 4) + gl_SubgroupInvocationID % ACROSS / 4)
#define LOAD_PART(number) (gl_SubgroupInvocationID % 4)
#endif

// Whether each subgroup has as many loads as every other, so that nothing is past an end. Without the branches there int4 is
// slower (measured on an H200).
const bool EVEN = W_INT8 == 1 && ROW % CHUNK == 0 && CHUNK / (PER * ACROSS) % (AHEAD * SPLIT) == 0;

// AHEAD loads of each column and what their groups share, those past the end of a column from its last tile.
#define FETCH(loads, scales, number) \
    [[unroll]] for (uint a = 0; a < AHEAD; a++) { \
        uint count = LOAD_TILE((number) + a * SPLIT); \
        [[unroll]] for (uint j = 0; j < COLUMNS; j++) { \
            uint at = w_vector(line[j], EVEN ? count : min(count, TILES - 1), LOAD_PART((number) + a * SPLIT)); \
            q[a][j] = loads[at]; \
            shared_by[a][j] = GROUP(scales[w_group(at)]); \
        } \
    }

void main() {
    uint share = gl_SubgroupID % SPLIT;
    uint first_row = gl_WorkGroupID.y * ROWS;
    uint first_column = gl_WorkGroupID.x * 4 * FOURS;
    // In the end a subgroup has four columns, an invocation of it a row of these.
    uint my_row = first_row + min(gl_SubgroupInvocationID, ROWS - 1);
    Ahead before = ahead(my_row, first_column + 4 * gl_SubgroupID);
    // The first of an invocation's columns in the workgroup; the others are DOWN further each.
    uint column = gl_SubgroupID / SPLIT * COLUMNS * DOWN + gl_SubgroupInvocationID / ACROSS;
    W_ROW line[COLUMNS];
    [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
        line[j] = w_row(min(first_column + column + j * DOWN, n - 1));
    }
    float acc[ROWS][COLUMNS];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
            acc[r][j] = 0.0;
        }
#if HAS_GAIN
        squares[r] = 0.0;
#endif
    }
    for (uint first = 0; first < ROW; first += CHUNK) {
        uint end = (min(first + CHUNK, ROW) + PER * ACROSS - 1) / (PER * ACROSS);
        uint number = first / (PER * ACROSS) + share;
        uvec4 q[AHEAD][COLUMNS];
        GROUP shared_by[AHEAD][COLUMNS];
        FETCH(w_first, w_first_scale, number)
        if (first > 0) {
            barrier();
        }
        take_apart(first);
        while (true) {
            [[unroll]] for (uint a = 0; a < AHEAD; a++) {
                uint load = 4 * LOAD_TILE(number + a * SPLIT) + LOAD_PART(number + a * SPLIT);
                if (EVEN || number + a * SPLIT < end && (ROW_VECTORS % ACROSS == 0 || load < ROW_VECTORS)) {
                    [[unroll]] for (uint r = 0; r < ROWS; r++) {
                        uint group = (r * CHUNK + load * PER - first) / 32;
                        float scale = x_scale[group];
#if W_INT4
                        ivec4 eighths = totals[group];
                        float total = scale * float(eighths.x + eighths.y + eighths.z + eighths.w);
#endif
                        uint at = (r * CHUNK + load * PER - first) / PER;
                        X_PART highs = X_PART_AT(at);
                        X_PART lows = X_PART_AT(LOW + at);
                        [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
                            float sum = float(products(q[a][j], highs, lows));
#if W_INT4
                            acc[r][j] += sum * (scale * shared_by[a][j].x) + total * shared_by[a][j].y;
#else
                            acc[r][j] += sum * (scale * shared_by[a][j]);
#endif
                        }
                    }
                }
            }
            number += AHEAD * SPLIT;
            if (number >= end) {
                break;
            }
            FETCH(w, w_scale, number)
        }
    }

    // Nobody reads x any more.
    barrier();
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
            uint mine = column + j * DOWN;
            uint at = (r * FOURS + mine / 4) * MEET + share * ACROSS + gl_SubgroupInvocationID % ACROSS;
            tile[at][mine % 4] = floatBitsToUint(acc[r][j]);
        }
#if HAS_GAIN
        squares[r] = subgroupAdd(squares[r]);
        if (gl_SubgroupInvocationID == 0) {
            square_parts[r * SUBGROUPS + gl_SubgroupID] = squares[r];
        }
#endif
    }
    barrier();
    for (uint four = gl_SubgroupID; four < FOURS; four += SUBGROUPS) {
        vec4 sum = vec4(0.0);
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            vec4 part = vec4(0.0);
            [[unroll]] for (uint e = 0; e < (MEET + SUBGROUP - 1) / SUBGROUP; e++) {
                uint at = e * SUBGROUP + gl_SubgroupInvocationID;
                if (MEET % SUBGROUP == 0 || at < MEET) {
                    part += uintBitsToFloat(tile[(r * FOURS + four) * MEET + at]);
                }
            }
            part = subgroupAdd(part);
            sum = gl_SubgroupInvocationID == r ? part : sum;
        }
        if (gl_SubgroupInvocationID < ROWS) {
#if HAS_GAIN
            float square_sum = 0.0;
            [[unroll]] for (uint subgroup = 0; subgroup < SUBGROUPS; subgroup++) {
                square_sum += square_parts[gl_SubgroupInvocationID * SUBGROUPS + subgroup];
            }
            sum *= rms_scale(square_sum);
#endif
            if (four >= SUBGROUPS) {
                before = ahead(my_row, first_column + 4 * four);
            }
            finish(my_row, first_column + 4 * four, sum, before);
        }
    }
}
