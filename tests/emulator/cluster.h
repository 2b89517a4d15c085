// The blocks of a cluster of a kernel on the host: their threads are fibers, which run until they wait for each other.
//
// A barrier that some thread never reaches fails the launch, and so does an access to a misaligned address. Shared
// memory holds NaN when a block begins and after it has ended, and is as long as was asked for (the address sanitizer
// sees its ends). Copies into it happen when they are waited for.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct dim3 {
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    unsigned x, y, z;
};
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

class Cluster;
Cluster& cluster();

// Counts the words of shared memory that a warp's access finds in one bank: 1 if there is no conflict. An access of
// more than 4 bytes is made for 128 bytes at a time.
class Banks {
public:
    bool on = false;

    // The n-th access of this thread from one place of the code belongs to the n-th one of the other threads.
    void count(unsigned thread, const void* place, std::size_t offset, unsigned bytes) {
        const unsigned access = visits_[{thread, place}]++, lane = thread % 32, lanes = 128 / bytes;
        std::vector<std::size_t>& words = accesses_[{thread / 32, place, access, lane / lanes}];
        for (unsigned word = 0; word < bytes / 4; ++word) words.push_back(offset / 4 + word);
    }
    void end_block() {
        for (auto& [key, words] : accesses_) {
            std::sort(words.begin(), words.end());
            words.erase(std::unique(words.begin(), words.end()), words.end());  // one word is read for all lanes
            int in_bank[32] = {};
            for (const std::size_t word : words) most_ = std::max(most_, ++in_bank[word % 32]);
        }
        counted_ += accesses_.size();
        accesses_.clear();
        visits_.clear();
    }
    int most() const { return most_; }
    std::size_t counted() const { return counted_; }
    void restart() { *this = Banks{}; }

private:
    std::map<std::pair<unsigned, const void*>, unsigned> visits_;
    std::map<std::tuple<unsigned, const void*, unsigned, unsigned>, std::vector<std::size_t>> accesses_;
    int most_ = 0;
    std::size_t counted_ = 0;
};
inline thread_local Banks banks;

// A fiber takes one thread after the other while none waits;
// whichever waits keeps its fiber. Each thread of the host has one, for all launches: fibers are dear to make.
class Cluster {
public:
    void begin_launch(const std::function<void()>& kernel, unsigned threads, std::size_t shared_bytes,
                      unsigned blocks) {
        kernel_ = kernel;
        threads_ = threads;
        shared_bytes_ = shared_bytes;
        blocks_.resize(blocks);
        for (Block& block : blocks_) {
            block.shared.reset(new unsigned char[shared_bytes]);
            block.warps.resize((threads + 31) / 32);
        }
    }

    // False if the cluster hangs: some threads wait for others that have ended. Or if one was given up.
    bool run(unsigned first_block) {
        first_block_ = first_block;
        started_ = ended_ = arrived_ = rank_ = 0;
        misaligned_ = false;
        for (Block& block : blocks_) {
            clear(block);
            block.arrived = block.ended = 0;
            for (Warp& w : block.warps) w = Warp{};
        }
        while (ended_ < all_threads() && !misaligned_) {
            Fiber* next = nullptr;
            for (std::size_t k = 0; k < blocks_.size() && !next; ++k) {
                next = ready_fiber();
                if (!next) rank_ = (rank_ + 1) % unsigned(blocks_.size());
            }
            if (!next) break;
            resume(*next);
        }
        if (banks.on) banks.end_block();
        if (ended_ == all_threads()) return true;
        fibers_.clear();  // some are in the middle of a thread
        return false;
    }

    // The thread that runs has touched a misaligned address: the cluster is given up where it stands.
    void give_up() {
        misaligned_ = true;
        leave(*current_);
    }
    bool misaligned() const { return misaligned_; }

    void barrier() {
        Block& block = own();
        if (++block.arrived == threads_) {
            block.arrived = 0;
            ++block.phase;
        } else {
            wait(block.phase);
        }
    }
    void arrive() {  // at the barrier of the cluster
        current_->arrived_in = phase_;
        if (++arrived_ == all_threads()) {
            arrived_ = 0;
            ++phase_;
        }
    }
    void wait_for_all() {
        if (phase_ == current_->arrived_in) wait(phase_);
    }

    // Every lane of the mask leaves a word; the word of lane `source` comes back.
    unsigned exchange(unsigned mask, unsigned word, unsigned source) {
        const unsigned lanes = lanes_of(threadIdx.x / 32) & mask;
        const unsigned* const words = words_of(lanes, word);
        return lanes >> source & 1 ? words[source] : word;
    }
    // Bit k: whether lane k of the mask says true.
    unsigned ballot(unsigned mask, bool vote) {
        const unsigned lanes = lanes_of(threadIdx.x / 32) & mask;
        const unsigned* const words = words_of(lanes, vote);
        unsigned votes = 0;
        for (unsigned lane = 0; lane < 32; ++lane) votes |= (lanes >> lane & words[lane] & 1) << lane;
        return votes;
    }

    unsigned char* shared() { return own().shared.get(); }
    std::size_t offset(const void* at) { return std::size_t(static_cast<const unsigned char*>(at) - shared()); }
    void* of_rank(const void* at, unsigned rank) { return blocks_.at(rank).shared.get() + offset(at); }

    void start_copy(void* to, const void* from) {
        if (std::uintptr_t(to) % 16 != 0 || std::uintptr_t(from) % 16 != 0) give_up();
        current_->copies.emplace_back(to, from);
    }
    void end_group_of_copies() { current_->groups.push_back(current_->copies.size()); }
    void wait_for_copies(std::size_t open) {
        Fiber& self = *current_;
        for (; self.groups.size() - self.groups_done > open; ++self.groups_done) {
            for (; self.copies_done < self.groups[self.groups_done]; ++self.copies_done) {
                const auto [to, from] = self.copies[self.copies_done];
                std::memcpy(to, from, 16);
            }
        }
    }

private:
    struct Fiber {
        static constexpr std::size_t stack_bytes = 64 * 1024;
        void* place[5];  // where it goes on
        std::unique_ptr<char[]> stack;
        unsigned thread = 0, rank = 0, phase = 0, arrived_in = 0;
        const unsigned* waits_for = nullptr;  // goes on when this is no longer `phase`
        std::vector<std::pair<void*, const void*>> copies;
        std::vector<std::size_t> groups;  // of copies: where each ends
        std::size_t copies_done = 0, groups_done = 0;
        void* fake_stack = nullptr;  // the address sanitizer's
    };
    struct Warp {
        unsigned word[2][32] = {}, arrived = 0, phase = 0;
    };
    struct Block {
        std::unique_ptr<unsigned char[]> shared;
        std::vector<Warp> warps;
        unsigned arrived = 0, phase = 0, ended = 0;
    };

    // One of the block whose turn it is. A block runs as far as it can: so it ends early if others do not wait for it.
    Fiber* ready_fiber() {
        const bool starts = started_ < all_threads() && started_ / threads_ == rank_;
        for (std::size_t k = 0; k < fibers_.size(); ++k) {
            Fiber& fiber = *fibers_[turn_++ % fibers_.size()];
            const bool goes_on = fiber.waits_for && fiber.rank == rank_ && *fiber.waits_for != fiber.phase;
            if (goes_on || (starts && !fiber.waits_for)) return &fiber;
        }
        if (!starts) return nullptr;
        fibers_.push_back(std::make_unique<Fiber>());
        return fibers_.back().get();
    }
    unsigned all_threads() const { return threads_ * unsigned(blocks_.size()); }
    Block& own() { return blocks_[current_->rank]; }
    void clear(Block& block) { std::memset(block.shared.get(), 0xff, shared_bytes_); }
    unsigned lanes_of(unsigned warp) const {
        const unsigned left = threads_ - 32 * warp;
        return left >= 32 ? 0xffffffffu : (1u << left) - 1;
    }

    // The words that these lanes of a warp leave, when all have left theirs. Valid until the next such call but one.
    const unsigned* words_of(unsigned lanes, unsigned word) {
        Warp& warp = own().warps[threadIdx.x / 32];
        const unsigned parity = warp.phase & 1;
        warp.word[parity][threadIdx.x % 32] = word;
        if (++warp.arrived == unsigned(__builtin_popcount(lanes))) {
            warp.arrived = 0;
            ++warp.phase;
        } else {
            wait(warp.phase);
        }
        return warp.word[parity];
    }

    void wait(const unsigned& phase) {
        Fiber& self = *current_;
        self.waits_for = &phase;
        self.phase = phase;
        leave(self);
        self.waits_for = nullptr;
        enter(self);
    }
    void enter(const Fiber& fiber) const {
        threadIdx.x = fiber.thread;
        blockIdx.x = first_block_ + fiber.rank;
    }

    static void main() {
        Cluster& c = cluster();
        arrived_at(nullptr, &c.main_bottom_, &c.main_bytes_);
        while (true) {
            Fiber& self = *c.current_;
            while (c.started_ < c.all_threads()) {
                self.rank = c.started_ / c.threads_;
                self.thread = c.started_++ % c.threads_;
                self.copies.clear();
                self.groups.clear();
                self.copies_done = self.groups_done = 0;
                c.enter(self);
                c.kernel_();
                ++c.ended_;
                if (++c.own().ended == c.threads_) c.clear(c.own());
            }
            c.leave(self);
        }
    }

    void resume(Fiber& fiber) {
        current_ = &fiber;
        const bool begins = !fiber.stack;
        if (begins) fiber.stack.reset(new char[Fiber::stack_bytes]);
        leaving_for(&main_fake_stack_, fiber.stack.get(), Fiber::stack_bytes);
        if (begins) {
            begin(fiber);
        } else {
            go(main_place_, fiber.place);
        }
        arrived_at(main_fake_stack_, nullptr, nullptr);
    }
    void leave(Fiber& fiber) {
        leaving_for(&fiber.fake_stack, main_bottom_, main_bytes_);
        go(fiber.place, main_place_);
        arrived_at(fiber.fake_stack, &main_bottom_, &main_bytes_);
    }

    // A context makes the fiber's stack; from there on jumps are enough, and they ask nothing of the kernel.
    __attribute__((noinline)) void begin(Fiber& fiber) {
        ucontext_t context;
        getcontext(&context);
        context.uc_stack.ss_sp = fiber.stack.get();
        context.uc_stack.ss_size = Fiber::stack_bytes;
        context.uc_link = nullptr;
        makecontext(&context, main, 0);
        if (__builtin_setjmp(main_place_) == 0) setcontext(&context);
    }
    __attribute__((noinline)) static void go(void** from, void** to) {
        if (__builtin_setjmp(from) == 0) jump(to);
    }
    __attribute__((noinline)) static void jump(void** to) { __builtin_longjmp(to, 1); }

#if defined(__SANITIZE_ADDRESS__)
    static void leaving_for(void** fake_stack, const void* bottom, std::size_t bytes) {
        __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
    }
    static void arrived_at(void* fake_stack, const void** bottom, std::size_t* bytes) {
        __sanitizer_finish_switch_fiber(fake_stack, bottom, bytes);
    }
#else
    static void leaving_for(void**, const void*, std::size_t) {}
    static void arrived_at(void*, const void**, std::size_t*) {}
#endif

    std::function<void()> kernel_;
    unsigned threads_ = 0, first_block_ = 0;
    std::size_t shared_bytes_ = 0;
    std::vector<Block> blocks_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    Fiber* current_ = nullptr;
    std::size_t turn_ = 0;  // fibers are asked in turn
    void* main_place_[5];
    void* main_fake_stack_ = nullptr;
    const void* main_bottom_ = nullptr;
    std::size_t main_bytes_ = 0;
    unsigned started_ = 0, ended_ = 0, arrived_ = 0, phase_ = 0, rank_ = 0;
    bool misaligned_ = false;
};

inline Cluster& cluster() {
    static thread_local Cluster cluster;
    return cluster;
}
inline unsigned char* shared_memory() { return cluster().shared(); }

// Before an access of shared memory.
__attribute__((noinline)) inline void count_banks(const void* at, int bytes) {
    if (!banks.on) return;
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    banks.count(thread, __builtin_return_address(0), cluster().offset(at), unsigned(bytes));
}

}  // namespace emulator

#if defined(GRADFUSE_CHECKS_ALIGNMENT)
// What the compiler (-fsanitize=alignment) calls in place of a misaligned access.
extern "C" [[noreturn]] inline __attribute__((used, visibility("hidden"))) void __ubsan_handle_type_mismatch_v1_abort(
    void*, void*) {
    emulator::cluster().give_up();
    __builtin_unreachable();
}
#endif
