// Weights in block formats: groups of 32 neighbours of a row share a scale (int8), or a scale and a minimum (int4).
// A buffer of `elements` weights holds all small integers first and then what the groups share, so that it is bound
// twice: as words, and as f16 (int8) or pairs of f16 (int4).

// Four int8 of one word.
vec4 int8_values(uint word) {
    return vec4(bitfieldExtract(int(word), 0, 8), bitfieldExtract(int(word), 8, 8), bitfieldExtract(int(word), 16, 8),
                bitfieldExtract(int(word), 24, 8));
}

// Four int4 of the low half of a word.
vec4 int4_values(uint word) {
    return vec4(word & 15, word >> 4 & 15, word >> 8 & 15, word >> 12 & 15);
}

// Where the shared numbers of the group that holds element `element` stand among the f16, or pairs of f16, of a buffer
// of `elements`.
uint int8_group(uint elements, uint element) {
    return elements / 2 + element / 32;
}

uint int4_group(uint elements, uint element) {
    return elements / 8 + element / 32;
}
