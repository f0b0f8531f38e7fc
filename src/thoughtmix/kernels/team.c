/* A team of threads that waits for work: awake for a moment, then asleep. One caller has it at a time; who finds it taken
works alone, which changes no bit of what is computed. */

#define _GNU_SOURCE
#include "kernels.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

enum { MOST = 64, AWAKE = 4000, EAGER = 2000 }; /* threads; pauses before sleep, before others are let run */

static struct {
    pthread_mutex_t taken, lock;
    pthread_cond_t called;
    int workers;
    atomic_int number, left; /* of the job at work; workers that have not ended it */
    Job job;
    void *argument;
    int threads;
} team = {.taken = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .called = PTHREAD_COND_INITIALIZER};

static void forget_workers(void) { /* in a forked child, where there are none */
    pthread_mutex_init(&team.taken, NULL);
    pthread_mutex_init(&team.lock, NULL);
    pthread_cond_init(&team.called, NULL);
    team.workers = 0;
    atomic_store(&team.left, 0);
}

static void *work(void *started) {
    int thread = (int)(intptr_t)started & 0xff, seen = (int)((intptr_t)started >> 8);
    for (;;) {
        for (int i = 0; i < AWAKE && atomic_load_explicit(&team.number, memory_order_acquire) == seen; i++) _mm_pause();
        pthread_mutex_lock(&team.lock);
        while (atomic_load(&team.number) == seen) pthread_cond_wait(&team.called, &team.lock);
        seen = atomic_load(&team.number);
        Job job = team.job; /* of this number: who has no part in it may wake when the next one is already called */
        void *argument = team.argument;
        int threads = team.threads;
        pthread_mutex_unlock(&team.lock);
        if (thread < threads) {
            job(argument, thread, threads);
            atomic_fetch_sub_explicit(&team.left, 1, memory_order_release);
        }
    }
    return NULL;
}

static void hire(int workers) {
    static atomic_int watched;
    if (!atomic_exchange(&watched, 1)) pthread_atfork(NULL, NULL, forget_workers);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are for the program's own threads */
    while (team.workers < workers) {
        pthread_t made;
        intptr_t start = ((intptr_t)atomic_load(&team.number) << 8) | (team.workers + 1);
        if (pthread_create(&made, NULL, work, (void *)start)) break;
        pthread_detach(made);
        team.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void run_in_team(Job job, void *argument, int threads, Barrier *barrier) {
    if (threads > MOST) threads = MOST;
    if (threads > 1 && pthread_mutex_trylock(&team.taken) == 0) {
        hire(threads - 1);
        if (threads > team.workers + 1) threads = team.workers + 1;
        barrier->threads = threads;
        pthread_mutex_lock(&team.lock);
        team.job = job, team.argument = argument, team.threads = threads;
        atomic_store(&team.left, threads - 1);
        atomic_store(&team.number, (atomic_load(&team.number) + 1) & 0x7fffff);
        pthread_cond_broadcast(&team.called);
        pthread_mutex_unlock(&team.lock);
        job(argument, 0, threads);
        for (int i = 0; atomic_load_explicit(&team.left, memory_order_acquire); i++) {
            _mm_pause();
            if (i > EAGER) sched_yield();
        }
        pthread_mutex_unlock(&team.taken);
        return;
    }
    barrier->threads = 1;
    job(argument, 0, 1);
}

void wait_for_all(Barrier *barrier) {
    if (barrier->threads == 1) return;
    int phase = atomic_load_explicit(&barrier->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) == barrier->threads - 1) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&barrier->phase, phase + 1, memory_order_release);
        return;
    }
    for (int i = 0; atomic_load_explicit(&barrier->phase, memory_order_acquire) == phase; i++) {
        _mm_pause();
        if (i > EAGER) sched_yield();
    }
}
