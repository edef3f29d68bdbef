// x w^T on matrix units whose fragments are filled from registers (include/lanes.glsl): w goes from memory to the matrix
// units without a stay in shared memory, each invocation reading 16 bytes of a column at a time, the next ones on their
// way while it computes. In a block format the invocations of eight columns read a tile of w (include/block_formats.glsl),
// bytes that follow each other.
//
// A subgroup has ROWS x COLUMNS fragments of the tile of a workgroup, ACROSS of them stand beside each other over the
// columns. Where rows are few, SHARES teams of such subgroups divide k among themselves and add their sums in the end.
// LOADS loads of every column and share make a window of k.
//
// x comes straight from memory, as w does, with X_DIRECT: right where nobody else in the workgroup wants the same part
// of it. Otherwise a window of it is laid out in shared memory, fragment by fragment.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;
#define ROWS_BY_SUBGROUP
#define W_BY_16_BYTES
#include "include/linear_io.glsl"
#include "include/lanes.glsl"

// With RoPE or an error function what follows on the sums is a long program.
#define LONG_EPILOGUE (HAS_POSITIONS || ACT == ACT_GELU || ACT == ACT_GEGLU)

const uint TILE_M = 16 * ROWS;
const uint MY_COLUMNS = 16 * COLUMNS;
const uint TILE_N = MY_COLUMNS * ACROSS;
// Fragments of a window over k, and the vectors of eight that these take of a row of x.
const uint FRAGMENTS = LOADS * LOAD_FRAGMENTS * SHARES;
const uint WINDOW_8 = 2 * FRAGMENTS;
// An invocation brings eight neighbours of two rows of a fragment at a time.
const uint ITEMS = TILE_M / 2 * WINDOW_8;
const uint BRINGS = (ITEMS + LOCAL_X - 1) / LOCAL_X;
// First x; in the end sums on their way from share to share.
shared uvec4 tile[TILE_VECTORS];

// x[row, 8 * k8 .. 8 * k8 + 8] with zeros past the end of a row.
uvec4 load_x8(uint row, uint k8) {
#if X_DIRECT
    return row < m && 8 * k8 < k ? x[row * (k / 8) + k8] : uvec4(0);
#else
    // Without a branch where none is needed: rows past the last one are not written, and past the last window nothing counts.
    const bool whole_windows = ROW % (16 * FRAGMENTS) == 0;
    return whole_windows || 8 * k8 < k ? x[min(row, m - 1) * (k / 8) + min(k8, k / 8 - 1)] : uvec4(0);
#endif
}

// What an invocation brings of window `number`. Text, not functions: what is on its way must be in registers of `main`.
// Past the end of a column come its last loads again: there x is zero.
#if WHOLE
// Nothing is past an end, the columns of an invocation stand at fixed distances, and x comes straight from memory.
#define W_AT(j, four) (first_vector + (j) % 2 * 8 + (j) / 2 * (16 * ROW_VECTORS) + 32 * (four))
#define SHARED_AT(j, four) (first_group + ((j) % 2 * 8 + (j) / 2 * (16 * ROW_VECTORS) + 32 * (four)) / (W_GROUP / PER))
#else
#define W_AT(j, four) w_vector(line[j], min(four, (k / PER + 3) / 4 - 1), c)
#define SHARED_AT(j, four) w_group(W_AT(j, four))
#endif
#define BRING_W(number) \
    [[unroll]] for (uint a = 0; a < LOADS; a++) { \
        uint four = ((number) * SHARES + share) * LOADS + a; \
        [[unroll]] for (uint j = 0; j < 2 * COLUMNS; j++) { \
            next_w[a][j] = w[W_AT(j, four)]; \
            next_shared[a][j] = load_shared(SHARED_AT(j, four)); \
        } \
    }
#if WHOLE
#define BRING_X(number) \
    [[unroll]] for (uint a = 0; a < LOADS; a++) { \
        [[unroll]] for (uint i = 0; i < 2 * ROWS; i++) { \
            [[unroll]] for (uint v = 0; v < PER / 8; v++) { \
                next_x[a][i][v] = x[x_line[i] + (((number) * SHARES + share) * LOADS + a) * (PER / 2) + v]; \
            } \
        } \
    }
#elif X_DIRECT
#define BRING_X(number) \
    [[unroll]] for (uint a = 0; a < LOADS; a++) { \
        uint load = (((number) * SHARES + share) * LOADS + a) * 4 + c; \
        [[unroll]] for (uint i = 0; i < 2 * ROWS; i++) { \
            [[unroll]] for (uint v = 0; v < PER / 8; v++) { \
                next_x[a][i][v] = load_x8(first_row + 8 * i + g, load * (PER / 8) + v); \
            } \
        } \
    }
#else
#define BRING_X(number) \
    [[unroll]] for (uint b = 0; b < BRINGS; b++) { \
        uint item = t + b * LOCAL_X; \
        if (ITEMS % LOCAL_X == 0 || item < ITEMS) { \
            uint row = first_row + item / WINDOW_8 / 8 * 16 + item / WINDOW_8 % 8; \
            uint k8 = (number) * WINDOW_8 + item % WINDOW_8; \
            next_x[b][0] = load_x8(row, k8); \
            next_x[b][1] = load_x8(row + 8, k8); \
        } \
    }
#endif

#include "include/meet.glsl"

void main() {
    uint t = gl_LocalInvocationID.x;
    uint lane = gl_SubgroupInvocationID;
    uint g = lane / 4;
    uint c = lane % 4;
    uint share = gl_SubgroupID / ACROSS;
    uint member = gl_SubgroupID % ACROSS;
    uint first_row = gl_WorkGroupID.x * TILE_M;
    uint first_column = gl_WorkGroupID.y * TILE_N + member * MY_COLUMNS;

    W_ROW line[2 * COLUMNS];
    [[unroll]] for (uint j = 0; j < 2 * COLUMNS; j++) {
        line[j] = w_row(min(first_column + j / 2 * 16 + j % 2 * 2 + lane_column(g), n - 1));
    }
    SUM_FRAGMENT acc[ROWS][COLUMNS];
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
            acc[i][j] = SUM_FRAGMENT(0.0);
        }
    }
    const uint windows = (k / 8 + WINDOW_8 - 1) / WINDOW_8;
#if WHOLE
    // The first of the vectors that this invocation reads of its columns' first tiles; where its rows of x begin.
    uint first_vector = line[0].start + c;
    uint first_group = w_group(first_vector);
    uint x_line[2 * ROWS];
    [[unroll]] for (uint i = 0; i < 2 * ROWS; i++) {
        x_line[i] = min(first_row + 8 * i + g, m - 1) * (k / 8) + c * (PER / 8);
    }
#endif
    uvec4 next_w[LOADS][2 * COLUMNS];
    f16vec2 next_shared[LOADS][2 * COLUMNS];
#if X_DIRECT
    uvec4 next_x[LOADS][2 * ROWS][PER / 8];
#else
    uvec4 next_x[BRINGS][2];
#endif
    BRING_X(0)
    BRING_W(0)
#if ROLLED
    // With few rows the unrolled program, four times as long, is the slower one.
    [[dont_unroll]]
#endif
    for (uint window = 0; window < windows; window++) {
#if X_DIRECT
        uvec4 this_x[LOADS][2 * ROWS][PER / 8] = next_x;
#else
        barrier();
        [[unroll]] for (uint b = 0; b < BRINGS; b++) {
            uint item = t + b * LOCAL_X;
            if (ITEMS % LOCAL_X == 0 || item < ITEMS) {
                uint pair = item / WINDOW_8;
                uvec2 place = x_place(item % WINDOW_8);
                uint at = (pair / 8 * FRAGMENTS + place.x) * FRAGMENT + pair % 8 * 4 + place.y;
                tile[at] = uvec4(x_pairs(next_x[b][0], 0), x_pairs(next_x[b][1], 0));
                tile[at + FRAGMENT] = uvec4(x_pairs(next_x[b][0], 1), x_pairs(next_x[b][1], 1));
            }
        }
        barrier();
#endif
        uvec4 this_w[LOADS][2 * COLUMNS] = next_w;
        f16vec2 this_shared[LOADS][2 * COLUMNS] = next_shared;
        // Past the last window these are numbers that nobody uses.
#if WHOLE
        uint coming = min(window + 1, windows - 1);
#else
        uint coming = window + 1;
#endif
        BRING_X(coming)
        BRING_W(coming)
#if ONE_SET
        // Never taken, which a compiler cannot know. NVIDIA's then loads into the registers that were read last instead of
        // others whose contents move there: 77 registers instead of 100, and no moves, but nothing is on its way meanwhile.
        if (n == 0) {
            barrier();
        }
#endif
        [[unroll]] for (uint a = 0; a < LOADS; a++) {
            [[unroll]] for (uint f = 0; f < LOAD_FRAGMENTS; f++) {
                LEFT_FRAGMENT rows[ROWS];
                [[unroll]] for (uint i = 0; i < ROWS; i++) {
#if X_DIRECT
                    uvec4 pairs = uvec4(x_pairs(this_x[a][2 * i][f / 2], f % 2),
                                        x_pairs(this_x[a][2 * i + 1][f / 2], f % 2));
#else
                    uint at = i * FRAGMENTS + (share * LOADS + a) * LOAD_FRAGMENTS + f;
                    uvec4 pairs = tile[at * FRAGMENT + lane];
#endif
                    FILL(rows[i], pairs)
                }
                [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
                    RIGHT_FRAGMENT columns;
                    uvec4 pairs = uvec4(w_pairs(this_w[a][2 * j], f, this_shared[a][2 * j]),
                                        w_pairs(this_w[a][2 * j + 1], f, this_shared[a][2 * j + 1]));
                    FILL(columns, pairs)
                    [[unroll]] for (uint i = 0; i < ROWS; i++) {
                        acc[i][j] = coopMatMulAdd(rows[i], columns, acc[i][j]);
                    }
                }
            }
        }
    }

    // An invocation has four neighbouring columns of two rows of each fragment.
#if SHARES == 1 && !LONG_EPILOGUE
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
            [[unroll]] for (uint h = 0; h < 2; h++) {
                vec4 sums = vec4(acc[i][j][4 * h], acc[i][j][4 * h + 1], acc[i][j][4 * h + 2], acc[i][j][4 * h + 3]);
                finish(first_row + 16 * i + 8 * h + g, first_column + 16 * j + 4 * c, sums);
            }
        }
    }
#else
    // Through shared memory: there the sums of all shares meet, and what follows on them stands in the program once and
    // not once for each fragment.
    barrier();
    [[dont_unroll]] for (uint i = 0; i < ROWS; i++) {
        if (i > 0) {
            meet();
        }
        // Fragments are in registers, which have no numbers at run time.
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            if (r == i) {
                [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
                    [[unroll]] for (uint h = 0; h < 2; h++) {
                        tile[(gl_SubgroupID * COLUMNS + j) * 64 + 32 * h + lane] = floatBitsToUint(
                            vec4(acc[r][j][4 * h], acc[r][j][4 * h + 1], acc[r][j][4 * h + 2], acc[r][j][4 * h + 3]));
                    }
                }
            }
        }
        meet();
        // The sums of a team are divided among the shares, neighbours in a row to neighbours.
        for (uint e = share * 32 + lane; e < 64 * COLUMNS; e += 32 * SHARES) {
            uint row = e / (4 * COLUMNS);
            uint four = e % (4 * COLUMNS);
            uint at = four / 4 * 64 + row * 4 + four % 4;
            vec4 sums = vec4(0.0);
            [[unroll]] for (uint other = 0; other < SHARES; other++) {
                sums += uintBitsToFloat(tile[(other * ACROSS + member) * COLUMNS * 64 + at]);
            }
            finish(first_row + 16 * i + row, first_column + 4 * four, sums);
        }
    }
#endif
#if HAS_NORM_WEIGHT
    finish_rows(gl_WorkGroupID.x, first_row, TILE_M, gl_NumWorkGroups.y);
#endif
}
