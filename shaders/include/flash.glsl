// FlashAttention (Dao et al. 2022) on matrix units (KHR cooperative matrix), f16 operands and f32 sums. A workgroup of
// SUBGROUPS subgroups of 32 takes TILE_Q queries of one head, a subgroup 16 of them, and walks the keys in tiles of TILE_K.
// The next tile of keys and values is on its way into registers while the matrix units work on this one.
//
// The includer has D (a multiple of 16, with FROM_REGISTERS of 32) and says what lies where, in vectors of eight elements:
//     uvec4 query(uint r, uint d8)    query r of the tile, zeros past the last one
//     uvec4 key(uint j, uint d8), uvec4 value(uint j, uint d8)    zeros past the last key
//     uvec2 sees(uint r)              the keys that query r of the tile attends to: the first, and the one after the last
//     void result(uint r, uint d8, uvec4 v)    takes the output, and ignores rows past the last query
// It gets TILE_Q, TILE_K and
//     void flash(uint from, uint to, float scale)    for keys from .. to; `scale` stands before each score
//
// The powers of a softmax are relative to a number, which one does not matter in the end. It rises, and the rows of the
// output with it are rescaled, only when powers above it could become more than f16 holds: it is at most ROOM, in units of
// log 2, below the largest score so far.

const uint SUBGROUPS = LOCAL_X / 32;
const uint TILE_Q = 16 * SUBGROUPS;
const uint D8 = D / 8;
const float ROOM = 8.0;

#include "fragments.glsl"

#if FROM_REGISTERS
#include "flash_lanes.glsl"
#else
#include "flash_matrix.glsl"
#endif
