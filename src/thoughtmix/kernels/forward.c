/* The layers, one after the other: norms, products, attention, and what lies between them, each a stage that all threads of
the team end before the next begins. */

#include "kernels.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cpuid.h>

enum { STAGES = 12 };

typedef struct {
    const Model *model;
    const Batch *batch;
    int64_t from, to, tiles, blocks, groups;
    Barrier barrier;
    atomic_int *next; /* a counter a stage: what comes next there */
    int64_t counters;
    float *x, *qkv, *picked, *angles, *ranks;
    uint8_t *normed, *mixed, *gated, *scaled, *scratch;
    int64_t scratch_bytes;
    RowBlock *block;
    RowGroup *group;
} Run;

static int64_t whole(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static int64_t count_blocks(const Batch *batch) {
    int64_t blocks = 0;
    for (int64_t i = 0; i < batch->segments; i++) blocks += tiles_of(batch->segment[i].rows);
    return blocks;
}

/* Lay the buffers of a run out in memory; returns how many bytes they take. */
static int64_t lay_out(Run *run, int threads) {
    const Model *m = run->model;
    const Batch *b = run->batch;
    int64_t at = 0, heads = m->heads * m->head_width, inner = blocks_of(m->inner), width = blocks_of(m->width);
    int64_t rows = run->tiles * ROWS, picked = tiles_of(b->picked);
    uint8_t *base = b->memory;
#define TAKE(name, bytes) (run->name = (void *)(base + at), at += whole(bytes))
    TAKE(x, rows * m->width * 4);
    TAKE(qkv, rows * (m->heads + 2 * m->kv_heads) * m->head_width * 4);
    TAKE(picked, picked * ROWS * m->width * 4);
    TAKE(normed, (run->tiles > picked ? run->tiles : picked) * width * INPUTS);
    TAKE(mixed, run->tiles * blocks_of(heads) * INPUTS);
    TAKE(gated, run->tiles * inner * INPUTS);
    TAKE(ranks, rows * b->ranks * 4);
    TAKE(scaled, threads * run->tiles * blocks_of(b->ranks) * INPUTS);
    TAKE(angles, run->blocks * m->head_width * ROWS * 4);
    TAKE(block, run->blocks * (int64_t)sizeof(RowBlock));
    TAKE(group, run->blocks * (int64_t)sizeof(RowGroup));
    run->counters = (run->to - run->from + 2) * STAGES;
    TAKE(next, run->counters * (int64_t)sizeof(atomic_int));
    int64_t product = product_scratch(m, run->tiles > picked ? run->tiles : picked, b->ranks), attention = attention_scratch(m);
    run->scratch_bytes = whole(product > attention ? product : attention);
    TAKE(scratch, threads * run->scratch_bytes);
#undef TAKE
    return at;
}

/* RMS norm of sixteen rows, as inputs of the next product. */
VECTOR static void norm_rows(const Model *m, const float *x, const float *gain, uint8_t *packed) {
    __m512 sums[8], zero = _mm512_setzero_ps();
    for (int i = 0; i < 8; i++) sums[i] = zero;
    int64_t f = 0;
    for (; f + 8 <= m->width; f += 8)
        for (int i = 0; i < 8; i++) {
            __m512 y = _mm512_loadu_ps(x + (f + i) * ROWS);
            sums[i] = _mm512_fmadd_ps(y, y, sums[i]);
        }
    for (; f < m->width; f++) {
        __m512 y = _mm512_loadu_ps(x + f * ROWS);
        sums[0] = _mm512_fmadd_ps(y, y, sums[0]);
    }
    for (int step = 4; step > 0; step /= 2)
        for (int i = 0; i < step; i++) sums[i] = _mm512_add_ps(sums[i], sums[i + step]);
    __m512 mean = _mm512_div_ps(sums[0], _mm512_set1_ps((float)m->width));
    __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1), _mm512_sqrt_ps(_mm512_add_ps(mean, _mm512_set1_ps(m->epsilon))));
    for (f = 0; f < blocks_of(m->width) * BLOCK; f += 2) {
        __m512 y[2] = {zero, zero};
        for (int i = 0; i < 2; i++)
            if (f + i < m->width)
                y[i] = _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + (f + i) * ROWS), inverse), _mm512_set1_ps(gain[f + i]));
        put_inputs(packed, f, y[0], y[1]);
    }
}

VECTOR static void norm_all(Run *run, const float *x, const float *gain, int64_t tiles, atomic_int *next) {
    const Model *m = run->model;
    for (int64_t tile; (tile = atomic_fetch_add(next, 1)) < tiles;)
        norm_rows(m, x + tile * m->width * ROWS, gain, run->normed + tile * blocks_of(m->width) * INPUTS);
}

enum { RANK_TILES = 64, FEW_ROWS = 4 };

/* Sixteens of ranks that no row goes through: of few rows most branches' A are not read. */
VECTOR static const uint8_t *idle_ranks(const Run *run, int64_t number, uint8_t *idle) {
    const Batch *b = run->batch;
    if (b->rows > FEW_ROWS || tiles_of(b->ranks) > RANK_TILES) return NULL;
    const float *scale = b->lora_scale + (b->scales == 1 ? 0 : number % b->moves) * b->ranks * ROWS;
    for (int64_t tile = 0; tile < tiles_of(b->ranks); tile++) {
        __mmask16 some = 0;
        for (int64_t f = tile * ROWS; f < (tile + 1) * ROWS && f < b->ranks; f++)
            some |= _mm512_cmp_ps_mask(_mm512_loadu_ps(scale + f * ROWS), _mm512_setzero_ps(), _CMP_NEQ_UQ);
        idle[tile] = !some;
    }
    return idle;
}

/* shift + scale * (A x) of sixteen rows, as inputs of B: scaled[tile]. */
VECTOR static void scale_ranks(const Run *run, int64_t number, int64_t tile, uint8_t *scaled) {
    const Batch *b = run->batch;
    int64_t ranks = b->ranks, across = run->tiles * ROWS, index = number % b->moves;
    const float *scale = b->lora_scale + (b->scales == 1 ? 0 : index) * ranks * across + tile * ROWS;
    const float *shift = b->lora_shift ? b->lora_shift + index * ranks * across + tile * ROWS : NULL;
    const float *z = run->ranks + tile * ranks * ROWS;
    uint8_t *to = scaled + tile * blocks_of(ranks) * INPUTS;
    for (int64_t f = 0; f < blocks_of(ranks) * BLOCK; f += 2) {
        __m512 u[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int i = 0; i < 2; i++)
            if (f + i < ranks) {
                __m512 y = _mm512_loadu_ps(z + (f + i) * ROWS), by = _mm512_loadu_ps(scale + (f + i) * across);
                __mmask16 goes = _mm512_cmp_ps_mask(by, _mm512_setzero_ps(), _CMP_NEQ_UQ); /* else y may be anything */
                u[i] = _mm512_maskz_mul_ps(goes, y, by);
                if (shift) {
                    __m512 moved = _mm512_loadu_ps(shift + (f + i) * across);
                    u[i] = _mm512_mask_mov_ps(moved, goes, _mm512_fmadd_ps(y, by, moved));
                }
            }
        put_inputs(to, f, u[0], u[1]);
    }
}

VECTOR static void one_layer(Run *run, int64_t number, int thread, atomic_int *next) {
    uint8_t *scratch = run->scratch + thread * run->scratch_bytes;
    const Model *m = run->model;
    const Batch *b = run->batch;
    const Layer *layer = &m->layer[number];
    Attention attention = {m, b, run->qkv, run->mixed, run->angles, run->block, number, 0};
    int64_t wide = (m->heads + 2 * m->kv_heads) * m->head_width, tasks = run->groups * m->kv_heads;
    Target to_qkv = {STORE, run->qkv, wide, 0, NULL}, to_x = {ADD, run->x, m->width, 0, NULL};
    Target to_gated = {GATED, NULL, m->inner, 0, run->gated}, to_ranks = {STORE, run->ranks, b->ranks, 0, NULL};
    norm_all(run, run->x, layer->norm, run->tiles, next++);
    wait_for_all(&run->barrier);
    multiply(&layer->qkv, run->normed, b->rows, to_qkv, next++, scratch);
    wait_for_all(&run->barrier);
    for (int64_t task; (task = atomic_fetch_add(next, 1)) < tasks;) {
        RowGroup group = run->group[task / m->kv_heads];
        for (int64_t i = 0; i < group.blocks; i++)
            store_keys(&attention, group.first + i, task % m->kv_heads, (float *)scratch);
        if (!b->together) attend(&attention, group, task % m->kv_heads, (float *)scratch);
    }
    next++;
    wait_for_all(&run->barrier);
    if (b->together) { /* all keys are stored first */
        for (int64_t task; (task = tasks - 1 - atomic_fetch_add(next, 1)) >= 0;) /* the longest first */
            attend(&attention, run->group[task / m->kv_heads], task % m->kv_heads, (float *)scratch);
        wait_for_all(&run->barrier);
    }
    next++;
    multiply(&layer->out, run->mixed, b->rows, to_x, next++, scratch);
    wait_for_all(&run->barrier);
    norm_all(run, run->x, layer->norm_mlp, run->tiles, next++);
    wait_for_all(&run->barrier);
    multiply(&layer->gated, run->normed, b->rows, to_gated, next++, scratch);
    wait_for_all(&run->barrier);
    multiply(&layer->down, run->gated, b->rows, to_x, next++, scratch);
    if (layer->lora >= 0 && b->lora_scale) {
        uint8_t idle[RANK_TILES];
        Matrix wanted = layer->lora_a;
        wanted.idle = idle_ranks(run, layer->lora, idle);
        multiply(&wanted, run->gated, b->rows, to_ranks, next++, scratch);
        wait_for_all(&run->barrier);
        uint8_t *scaled = run->scaled + thread * run->tiles * blocks_of(b->ranks) * INPUTS;
        for (int64_t tile = 0; tile < run->tiles; tile++) /* by every thread: to wait for each other takes longer */
            scale_ranks(run, layer->lora, tile, scaled);
        multiply(&layer->lora_b, scaled, b->rows, to_x, next, scratch);
    }
    wait_for_all(&run->barrier);
}

/* Between numbers by row, (rows, width), and numbers by feature. */
VECTOR static void turn(const float *by_row, float *by_feature, int64_t rows, int64_t width, int64_t tile, int back) {
    for (int64_t f = 0; f < width; f += 16) {
        __mmask16 mask = width - f < 16 ? (__mmask16)((1u << (width - f)) - 1) : (__mmask16)0xffff;
        __m512 x[16];
        float *to = by_feature + (tile * width + f) * ROWS;
        for (int i = 0; i < 16; i++)
            if (back)
                x[i] = f + i < width ? _mm512_loadu_ps(to + i * ROWS) : _mm512_setzero_ps();
            else
                x[i] = tile * ROWS + i < rows ? _mm512_maskz_loadu_ps(mask, by_row + (tile * ROWS + i) * width + f)
                                              : _mm512_setzero_ps();
        transpose16(x);
        for (int i = 0; i < 16; i++)
            if (back) {
                if (tile * ROWS + i < rows) _mm512_mask_storeu_ps((float *)by_row + (tile * ROWS + i) * width + f, mask, x[i]);
            } else if (f + i < width)
                _mm512_storeu_ps(to + i * ROWS, x[i]);
    }
}

VECTOR static void pick_rows(const Run *run, int64_t tile) {
    const Batch *b = run->batch;
    int64_t width = run->model->width;
    float *to = run->picked + tile * width * ROWS;
    memset(to, 0, width * ROWS * sizeof(float));
    for (int64_t i = 0; i < ROWS && tile * ROWS + i < b->picked; i++) {
        int64_t row = b->pick[tile * ROWS + i];
        const float *from = run->x + row / ROWS * width * ROWS + row % ROWS;
        for (int64_t f = 0; f < width; f++) to[f * ROWS + i] = from[f * ROWS];
    }
}

VECTOR static void run_thread(void *argument, int thread, int threads) {
    Run *run = argument;
    const Model *m = run->model;
    const Batch *b = run->batch;
    uint8_t *scratch = run->scratch + thread * run->scratch_bytes;
    unsigned modes = _mm_getcsr();
    _mm_setcsr(0x9fc0); /* round to nearest, what is too small is 0: as the matrix unit does */
    configure_tiles();
    atomic_int *next = run->next;
    if (run->from == 0) {
        for (int64_t tile; (tile = atomic_fetch_add(next, 1)) < run->tiles;)
            turn(b->embedded, run->x, b->rows, m->width, tile, 0);
    }
    for (int64_t i; (i = atomic_fetch_add(next + 1, 1)) < run->blocks;)
        turn_angles(m, b, run->block[i], run->angles + i * m->head_width * ROWS);
    wait_for_all(&run->barrier);
    next += STAGES;
    for (int64_t number = run->from; number < run->to; number++, next += STAGES) one_layer(run, number, thread, next);
    if (b->hidden)
        for (int64_t tile; (tile = atomic_fetch_add(next, 1)) < run->tiles;)
            turn(b->hidden, run->x, b->rows, m->width, tile, 1);
    if (b->logits && run->to == m->layers) {
        int64_t tiles = tiles_of(b->picked);
        for (int64_t tile; (tile = atomic_fetch_add(next + 1, 1)) < tiles;) {
            pick_rows(run, tile);
            norm_rows(m, run->picked + tile * m->width * ROWS, m->norm, run->normed + tile * blocks_of(m->width) * INPUTS);
        }
        wait_for_all(&run->barrier);
        Target to = {LOGITS, b->logits, 0, b->picked, NULL};
        multiply(&m->head, run->normed, b->picked, to, next + 2, scratch);
    }
    release_tiles();
    _mm_setcsr(modes);
    (void)threads;
}

static void begin(Run *run, const Model *model, const Batch *batch, int64_t from, int64_t to) {
    memset(run, 0, sizeof *run);
    run->model = model, run->batch = batch, run->from = from, run->to = to;
    run->tiles = tiles_of(batch->rows), run->blocks = count_blocks(batch);
}

/* Bytes of memory that a run of all layers takes. */
EXPORT int64_t thoughtmix_memory(const Model *model, const Batch *batch, int threads) {
    Run run;
    begin(&run, model, batch, 0, model->layers);
    return lay_out(&run, threads);
}

/* The rows in blocks of sixteen, and those of one segment in groups, as long as every thread has work. */
static void divide(Run *run, int threads) {
    const Model *m = run->model;
    int64_t at = 0, groups = 0, most = QUERIES / ROWS * m->kv_heads / m->heads, many = run->blocks * m->kv_heads / (2 * threads);
    if (many < most) most = many < 1 ? 1 : many;
    for (int64_t i = 0; i < run->batch->segments; i++) {
        const Segment *segment = &run->batch->segment[i];
        for (int64_t row = 0; row < segment->rows; row += ROWS, at++) {
            int64_t left = segment->rows - row;
            run->block[at] = (RowBlock){i, segment->first + row, left < ROWS ? left : ROWS};
            if (row && run->group[groups - 1].blocks < most)
                run->group[groups - 1].blocks++;
            else
                run->group[groups++] = (RowGroup){at, 1};
        }
    }
    run->groups = groups;
}

/* Layers `from` to `to` - 1; after the last one the logits. Memory holds the rows between two calls. */
EXPORT void thoughtmix_forward(const Model *model, const Batch *batch, int64_t from, int64_t to, int threads) {
    Run run;
    begin(&run, model, batch, from, to);
    run.to = model->layers; /* the same places at every call */
    run.from = 0;
    lay_out(&run, threads);
    run.from = from, run.to = to;
    memset((void *)run.next, 0, run.counters * sizeof(atomic_int));
    if (from == 0) { /* inputs beyond the last one: their weights are 0, and so must they be */
        memset(run.mixed, 0, run.tiles * blocks_of(model->heads * model->head_width) * INPUTS);
        if (model->inner % BLOCK) memset(run.gated, 0, run.tiles * blocks_of(model->inner) * INPUTS);
    }
    divide(&run, threads);
    run_in_team(run_thread, &run, threads, &run.barrier);
}

/* Ask for large pages: weights are read from end to end at each step. */
EXPORT void thoughtmix_large_pages(uint8_t *memory, int64_t bytes) {
    uintptr_t page = 2 << 20, from = ((uintptr_t)memory + page - 1) / page * page, to = ((uintptr_t)memory + bytes) / page * page;
#ifdef MADV_HUGEPAGE
    if (to > from) madvise((void *)from, to - from, MADV_HUGEPAGE);
#endif
}

/* Of which sources this was compiled. */
EXPORT const char *thoughtmix_sources(void) { return SOURCES; }

/* 0: this processor and system run all of it. 1: the processor lacks vector instructions, 2: a matrix unit; 3: the system
keeps it to itself. */
EXPORT int thoughtmix_unfit(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 1;
    if (!(c >> 12 & 1) || !(c >> 27 & 1) || !(c >> 29 & 1)) return 1; /* FMA, OSXSAVE, F16C */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 1;
    if (LEVEL == AVX2) return !(b >> 5 & 1) || (low & 6) != 6;
    unsigned vectors = (b >> 16 & 1) & (b >> 17 & 1) & (b >> 30 & 1) & (b >> 31 & 1); /* F, DQ, BW, VL */
    if (!vectors || (low & 0xe6) != 0xe6) return 1; /* the system keeps the registers */
    if (LEVEL == AVX512) return 0;
    unsigned amx = (d >> 22 & 1) & (d >> 24 & 1); /* AMX-BF16, AMX-TILE */
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return 1;
    if (!amx) return 2;
    if ((low & 0x60000) != 0x60000) return 3;
    enum { ASK = 0x1023, TILES = 18 };
    return syscall(SYS_arch_prctl, ASK, TILES) ? 3 : 0;
}
