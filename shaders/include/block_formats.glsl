// Block formats: groups of neighbours of a row share a scale (int8), or a scale and a minimum (int4); how many they are, a
// shader of a type T finds in T_GROUP. A buffer of `elements` holds all small integers first and then what the groups share,
// so that it is bound twice: as words, and as f16 (int8) or pairs of f16 (int4). `element` is below an element's number in
// that buffer: of a cache row after row, of a weight as `tiled_element` says.

// Four int8 of one word.
vec4 int8_values(uint word) {
    return vec4(bitfieldExtract(int(word), 0, 8), bitfieldExtract(int(word), 8, 8), bitfieldExtract(int(word), 16, 8),
                bitfieldExtract(int(word), 24, 8));
}

// Four int4 of the low half of a word.
vec4 int4_values(uint word) {
    return vec4(word & 15, word >> 4 & 15, word >> 8 & 15, word >> 12 & 15);
}

// Four values of a group of int8 as one word, and the scale of a group whose largest value is `largest`: the smallest
// that reaches it. It is NaN where `finite` is false, so that a value that was none does not become one.
float int8_scale(float largest, bool finite) {
    float scale = finite ? largest / 127.0 : uintBitsToFloat(0x7fc00000u);
    // As it is stored. Devices may round to f16 as they like, so this rounds to its 11 bits first, halves to even, as
    // the others do; adding cannot reach the bits of NaN from those of a number.
    uint bits = floatBitsToUint(scale);
    bits = bits + 0xfff + (bits >> 13 & 1) & ~0x1fffu;
    return unpackHalf2x16(packHalf2x16(vec2(uintBitsToFloat(bits), 0.0))).x;
}

uint int8_word(vec4 values, float scale) {
    vec4 levels = scale > 0.0 ? values * (1.0 / scale) : vec4(0.0);
    // To the nearest, halves away from zero.
    ivec4 whole = ivec4(clamp(sign(levels) * floor(abs(levels) + 0.5), -128.0, 127.0)) & 255;
    return uint(whole.x | whole.y << 8 | whole.z << 16 | whole.w << 24);
}

// Where the number (int8) or pair (int4) that element `element` shares with others, `group` in all, stands among the f16 or
// pairs of f16 of a buffer of `elements`.
uint int8_group(uint elements, uint element, uint group) {
    return elements / 2 + element / group;
}

uint int4_group(uint elements, uint element, uint group) {
    return elements / 8 + element / group;
}

// Weights stand in tiles of 8 rows x 4 vectors of 16 bytes, tile after tile along the rows, then the next 8 rows; tiles at
// the edges are smaller (src/dtype/tiles.rs). With WHOLE_TILES a shader knows that none is.
#ifndef WHOLE_TILES
#define WHOLE_TILES 0
#endif

// Where a row of a weight begins.
struct TiledRow {
    // Its first vector, were the first tile no narrower than others.
    uint start;
    // Vectors from one tile to the next.
    uint step;
    // Its number in the tiles.
    uint row;
};

// Row `row` of `rows`, each of `vectors` vectors.
TiledRow tiled_row(uint row, uint rows, uint vectors) {
    uint above = row - row % 8;
    return TiledRow(above * vectors + 4 * (row % 8), WHOLE_TILES == 1 ? 32 : 4 * min(8, rows - above), row % 8);
}

// The vector 4 * tile + part of a row of `vectors`, or the last one of that tile.
uint tiled_vector(TiledRow row, uint tile, uint part, uint vectors) {
#if WHOLE_TILES
    return row.start + part + 32 * tile;
#else
    uint width = vectors % 4 == 0 ? 4 : min(4, vectors - 4 * tile);
    return row.start + min(part, width - 1) + row.step * tile - row.row * (4 - width);
#endif
}

// Element `element` of row `row` of `rows`, each of `length` elements, `per` of which make 16 bytes.
uint tiled_element(uint row, uint element, uint rows, uint length, uint per) {
    uint vector = element / per;
    TiledRow line = tiled_row(row, rows, length / per);
    return per * tiled_vector(line, vector / 4, vector % 4, length / per) + element % per;
}
