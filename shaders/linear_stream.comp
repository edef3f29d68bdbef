// x w^T for one row and w in int8 or int4, for passes that relay (include/relay.glsl): the first loads of w are on their way
// before x is there. Products are those of `linear_dot.comp`: x is taken apart into two int8 for each element and a scale
// for 32 of them, whole rows of it in shared memory.
//
// There are about as many workgroups as run at once, and a workgroup has every GRID-th tile of 8 columns. Its teams of 32
// invocations share k: of each column tile a team has every TEAMS-th tile of w, a load of 16 bytes for each invocation. IN_K
// such loads of each of TOGETHER column tiles are under way, and as soon as one is used the next is asked for. Those of the
// first EARLY column tiles are asked for before x is there; the other ones only when x has been taken apart, since x would
// have to wait behind them. The sums of a column meet in shared memory when MOST column tiles are through, or all.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_integer_dot_product : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_quad : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;
#define PLACES_AHEAD LOOK_EARLY
#define W_BY_16_BYTES
#include "include/linear_io.glsl"

#include "include/gemv_operands.glsl"

const uint TILES = (ROW_VECTORS + 3) / 4;
const uint UNDER_WAY = TOGETHER * IN_K;
// Runs of IN_K tiles of a team in a column tile, and whether each of them is whole.
const uint RUNS = (TILES + IN_K * TEAMS - 1) / (IN_K * TEAMS);
#if ROW / PER % (4 * IN_K * TEAMS) == 0
#define EVEN 1
#else
#define EVEN 0
#endif

// x taken apart.
const uint GROUPS = ROW / 32;
const uint LOW = 2 * GROUPS;
shared uvec4 tile[2 * LOW];
#include "include/apart.glsl"
#if W_INT4
// Scale and sum of a group in a word: a scale that is not negative and has four bits of mantissa takes 12, and 32 levels add
// up to less than 2^19.
shared uint x_shared[GROUPS];
#else
shared float x_scale[GROUPS];
#endif
// Of four columns and each team their sums, for as many column tiles as are finished together.
shared vec4 sums[2 * MOST * TEAMS];
#if HAS_GAIN
shared float square_parts[SUBGROUPS];
#endif

uint team = gl_LocalInvocationID.x / 32;
uint lane = gl_LocalInvocationID.x % 32;

// x by 16 bytes.
layout(binding = BIND_X) RELAYED readonly buffer In0Vectors { uvec4 x_vectors[]; };
#if X_F16
#define PER_EIGHTH 1
#else
#define PER_EIGHTH 2
#endif

// Of x, eight elements an invocation and turn, whose neighbours in a quad have the others of their group. With int4 they
// are those that the team's own tiles of w meet, where no invocation is without any then (faster on an H200; int8 is not).
const uint TURNS = (ROW / 8 + LOCAL_X - 1) / LOCAL_X;

uint eighth_of(uint turn) {
#if W_INT4 && EVEN && ROW % (8 * LOCAL_X) == 0
    const uint IN_TILE = PER / 2;
    uint number = 32 * turn + lane;
    return (number / IN_TILE * TEAMS + team) * IN_TILE + number % IN_TILE;
#else
    return turn * LOCAL_X + gl_LocalInvocationID.x;
#endif
}

// All that is read of x, before any of it is used.
void ask_for_x(out uvec4 raw[TURNS * PER_EIGHTH]) {
    [[unroll]] for (uint turn = 0; turn < TURNS; turn++) {
        uint eighth = min(eighth_of(turn), ROW / 8 - 1);
        [[unroll]] for (uint i = 0; i < PER_EIGHTH; i++) {
            raw[turn * PER_EIGHTH + i] = x_vectors[PER_EIGHTH * eighth + i];
        }
    }
}

#if HAS_GAIN
layout(binding = BIND_GAIN) RELAY_EARLY readonly buffer In2First { vec4 gain_first[]; };
#define FACTORS , vec4 factors[2 * TURNS]
#else
#define FACTORS
#endif

void take_apart(uvec4 raw[TURNS * PER_EIGHTH] FACTORS) {
#if HAS_GAIN
    float squares = 0.0;
#endif
    [[unroll]] for (uint turn = 0; turn < TURNS; turn++) {
        uint eighth = eighth_of(turn);
        bool inside = ROW / 8 % LOCAL_X == 0 || eighth < ROW / 8;
#if X_F16
        uvec4 halves = raw[turn];
        vec4 v[2] = vec4[2](vec4(unpackHalf2x16(halves.x), unpackHalf2x16(halves.y)), vec4(unpackHalf2x16(halves.z), unpackHalf2x16(halves.w)));
#else
        vec4 v[2] = vec4[2](uintBitsToFloat(raw[2 * turn]), uintBitsToFloat(raw[2 * turn + 1]));
#endif
        uint peak = 0;
        [[unroll]] for (uint i = 0; i < 2; i++) {
#if HAS_GAIN
            squares += inside ? dot(v[i], v[i]) : 0.0;
            v[i] *= factors[2 * turn + i];
#endif
            uvec4 bits = floatBitsToUint(v[i]) & 0x7fffffff;
            peak = max(peak, max(max(bits.x, bits.y), max(bits.z, bits.w)));
        }
        peak = max(peak, subgroupQuadSwapHorizontal(peak));
        peak = max(peak, subgroupQuadSwapVertical(peak));
        float largest = uintBitsToFloat(peak);
#if W_INT4
        // Rounded up; NaN, whose bits differ from device to device, stays one.
        uint scale = min(floatBitsToUint(largest / LEVELS), 0x7fc00000) + 0x7ffff & 0xfff80000;
        float levels = scale > 0 ? 1.0 / uintBitsToFloat(scale) : 0.0;
#else
        float levels = largest > 0.0 ? LEVELS / largest : 0.0;
#endif
        uvec4 a = levels_of(v[0], levels);
        uvec4 b = levels_of(v[1], levels);
        uint group = eighth / 4;
#if W_INT4
        int total = sum_of(a, b);
        total += subgroupQuadSwapHorizontal(total);
        total += subgroupQuadSwapVertical(total);
#endif
        if (inside) {
            if (eighth % 4 == 0) {
#if W_INT4
                x_shared[group] = scale << 1 | total & 0xfffff;
#else
                x_scale[group] = largest / LEVELS;
#endif
            }
            put_eighth(group, eighth % 4, a, b);
        }
    }
#if HAS_GAIN
    squares = subgroupAdd(squares);
    if (gl_SubgroupInvocationID == 0) {
        square_parts[gl_SubgroupID] = squares;
    }
#endif
    barrier();
}

// What a group shares, as bits that are widened where they are used, since widening waits for the load. It does from 16 bits
// to 32, too: where no tile of w has an edge, the scales of two groups that stand beside each other come as a word.
#if W_INT4
#define BITS uint
#define SHARED_AT(vector) (COLUMNS * ROW / 8 + (vector) / (W_GROUP / PER))
#define SHARED_BY(bits) unpackHalf2x16(bits)
#elif WHOLE_TILES && EVEN
#define BITS uint
#define SHARED_AT(vector) (COLUMNS * ROW / 4 + (vector) / (2 * W_GROUP / PER))
#define SHARED_BY(bits) unpackHalf2x16((bits) >> lane / (W_GROUP / PER) % 2 * 16).x
#else
#define BITS uint16_t
#define SHARED_AT(vector) (COLUMNS * ROW / 2 + (vector) / (W_GROUP / PER))
#define SHARED_BY(bits) unpackHalf2x16(bits).x
#endif

// What is read of x for vector `vector` of a row of w.
struct Part {
    X_PART highs;
    X_PART lows;
    float scale;
#if W_INT4
    // Of its elements, in units of the scale.
    float sum;
#endif
};

Part part_of(uint vector) {
#if W_INT4
    uint both = x_shared[vector];
    return Part(X_PART_AT(vector), X_PART_AT(LOW + vector), uintBitsToFloat(both >> 1 & 0x7ff80000), float(int(both << 12) >> 12));
#else
    return Part(X_PART_AT(vector), X_PART_AT(LOW + vector), x_scale[vector / 2]);
#endif
}

// The products of 16 bytes of w with x.
float product(uvec4 q, uint bits, Part part) {
    GROUP shared_by = SHARED_BY(bits);
    float sum = float(products(q, part.highs, part.lows));
#if W_INT4
    return part.scale * (sum * shared_by.x + part.sum * shared_by.y);
#else
    return sum * (part.scale * shared_by);
#endif
}

// The first loads must not move behind the wait, where compilers would put them; coherent ones stay before the barrier.
layout(binding = BIND_W) RELAY_EARLY readonly buffer In1First { uvec4 w_first[]; };
layout(binding = BIND_W) RELAY_EARLY readonly buffer In1FirstShared { BITS w_first_scale[]; };
layout(binding = BIND_W) readonly buffer In1Bits { BITS w_bits[]; };

// The i-th tile of the team in a run of a column tile, and whether it is there.
#define TILE(run, i) (((run) * IN_K + (i)) * TEAMS + team)
#define THERE(run, i) (EVEN == 1 || 4 * TILE(run, i) + lane % 4 < ROW_VECTORS)

// Where the invocation's vector of a column tile's tile stands, and for a column tile that is not there that of another
// one; where none is left out and none has an edge, from one place on at distances that are known.
#if WHOLE_TILES && EVEN
#define START ((8 * gl_WorkGroupID.x * ROW_VECTORS + 32 * team) + lane)
#define AT(start, number, run, c, i) \
    ((start) + ((c) == 0 || (number) + (c) < tiles ? 8 * GRID * ROW_VECTORS * (c) : 0) + 32 * TEAMS * (i))
#else
#define START 0
#define AT(start, number, run, c, i) \
    w_vector(w_row(min(8 * (gl_WorkGroupID.x + ((number) + (c)) * GRID) + lane / 4, n - 1)), min(TILE(run, i), TILES - 1), lane % 4)
#endif

// The loads of a run, for the c-th column tile from the `number`-th of this workgroup on.
#define LOAD(from, scales, start, number, run, c, i) { \
        uint at = AT(start, number, run, c, i); \
        q[(c) * IN_K + (i)] = from[at]; \
        bits[(c) * IN_K + (i)] = uint(scales[SHARED_AT(at)]); \
    }

// The products of a run, each followed by THEN(c, i).
#define RUN(run, THEN) \
    [[unroll]] for (uint i = 0; i < IN_K; i++) { \
        Part part = part_of(EVEN == 1 ? 4 * TILE(run, i) + lane % 4 : min(4 * TILE(run, i) + lane % 4, ROW_VECTORS - 1)); \
        [[unroll]] for (uint c = 0; c < TOGETHER; c++) { \
            if (THERE(run, i)) { \
                acc[c] += product(q[c * IN_K + i], bits[c * IN_K + i], part); \
            } \
            THEN(c, i) \
        } \
    }

// The first of four columns from column tile `from` of this workgroup on.
uint column_of(uint from, uint four) {
    return 8 * (gl_WorkGroupID.x + (from + four / 2) * GRID) + four % 2 * 4;
}

// What the epilogue reads for this invocation's first columns of those from column tile `from` of this workgroup on.
void look_ahead(inout Ahead before, uint from, uint tiles) {
    uint four = gl_LocalInvocationID.x / 4;
    // Behind the loop, where nothing else is left to do, the nearest columns stand in where there are none.
#if LOOK_EARLY
    if (four < 2 * (tiles - from)) {
        before = ahead(0, column_of(from, four));
    }
#else
    before = ahead(0, column_of(from, four));
#endif
}

// What follows from the sums of column tiles `from .. to` of this workgroup.
void finish_tiles(uint from, uint to, Ahead before) {
#if !LOOK_EARLY
    look_ahead(before, from, to);
#endif
    barrier();
    // A quad has four columns, and each invocation of it some of the teams.
    uint four = gl_LocalInvocationID.x / 4;
    uint column = column_of(from, four);
    [[dont_unroll]] for (; four < 2 * (to - from); four += LOCAL_X / 4) {
        vec4 sum = vec4(0.0);
        [[unroll]] for (uint first = 0; first < TEAMS; first += 4) {
            uint part = first + gl_LocalInvocationID.x % 4;
            if (TEAMS % 4 == 0 || part < TEAMS) {
                sum += sums[four * TEAMS + part];
            }
        }
        sum += subgroupQuadSwapHorizontal(sum);
        sum += subgroupQuadSwapVertical(sum);
#if HAS_GAIN
        float squares = 0.0;
        [[unroll]] for (uint subgroup = 0; subgroup < SUBGROUPS; subgroup++) {
            squares += square_parts[subgroup];
        }
        sum *= rms_scale(squares);
#endif
        if (four >= LOCAL_X / 4) {
            column = column_of(from, four);
            before = ahead(0, column);
        }
        if (gl_LocalInvocationID.x % 4 == 0) {
            finish(0, column, sum, before);
        }
    }
}

// The sums of the team's products for TOGETHER column tiles, the `place`-th and those behind it of those that are finished
// together. Those of column tiles that are not there are not read.
void put_sums(float acc[TOGETHER], uint place) {
    [[unroll]] for (uint c = 0; c < TOGETHER; c++) {
        acc[c] += subgroupQuadSwapHorizontal(acc[c]);
        acc[c] += subgroupQuadSwapVertical(acc[c]);
        if (lane % 4 == 0) {
            sums[(2 * (place + c) + lane / 16) * TEAMS + team][lane / 4 % 4] = acc[c];
        }
    }
}

void main() {
    uint tiles = (n / 8 + min(n % 8, 1) + GRID - 1 - gl_WorkGroupID.x) / GRID;
    uint start = START;
    uvec4 q[UNDER_WAY];
    uint bits[UNDER_WAY];
#if HAS_GAIN
    vec4 factors[2 * TURNS];
    [[unroll]] for (uint turn = 0; turn < TURNS; turn++) {
        uint eighth = min(eighth_of(turn), ROW / 8 - 1);
        factors[2 * turn] = gain_first[2 * eighth];
        factors[2 * turn + 1] = gain_first[2 * eighth + 1];
    }
#endif
    [[unroll]] for (uint c = 0; c < EARLY; c++) {
        [[unroll]] for (uint i = 0; i < IN_K; i++) {
            LOAD(w_first, w_first_scale, start, 0, 0, c, i)
        }
    }
    RELAY_WAIT();
    uvec4 raw[TURNS * PER_EIGHTH];
    ask_for_x(raw);
#if HAS_GAIN
    take_apart(raw, factors);
#else
    take_apart(raw);
#endif
    [[unroll]] for (uint c = EARLY; c < TOGETHER; c++) {
        [[unroll]] for (uint i = 0; i < IN_K; i++) {
            LOAD(w, w_bits, start, 0, 0, c, i)
        }
    }
    Ahead before;
#if LOOK_EARLY
    look_ahead(before, 0, tiles);
#endif
    // The first column tile whose sums are in shared memory, and the first one of those that are summed up.
    uint from = 0;
    uint number = 0;
    float acc[TOGETHER];
    // Loads stand under no condition, which compilers would put behind all products and wait for at the end of the loop: so
    // the last run has a place of its own.
    [[dont_unroll]] while (true) {
        [[unroll]] for (uint c = 0; c < TOGETHER; c++) {
            acc[c] = 0.0;
        }
        [[dont_unroll]] for (uint run = 0; run + 1 < RUNS; run++) {
            start += 32 * TEAMS * IN_K;
#define THEN(c, i) LOAD(w, w_bits, start, number, run + 1, c, i)
            RUN(run, THEN)
#undef THEN
        }
        if (number + TOGETHER >= tiles) {
            break;
        }
        start += 8 * GRID * ROW_VECTORS * TOGETHER - 32 * TEAMS * IN_K * (RUNS - 1);
#define THEN(c, i) LOAD(w, w_bits, start, number + TOGETHER, 0, c, i)
        RUN(RUNS - 1, THEN)
#undef THEN
        put_sums(acc, number - from);
        number += TOGETHER;
#if !ONE_BATCH
        if (number + TOGETHER - from > MOST) {
            finish_tiles(from, number, before);
            from = number;
#if LOOK_EARLY
            look_ahead(before, from, tiles);
#endif
            barrier();
        }
#endif
    }
#define THEN(c, i)
    RUN(RUNS - 1, THEN)
    put_sums(acc, number - from);
    finish_tiles(from, tiles, before);
    RELAY_DONE();
}
