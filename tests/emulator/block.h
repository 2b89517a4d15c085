// A block of a kernel on the host: its threads are fibers, which run until they wait for each other.
//
// A barrier that some thread never reaches fails the block, and so does an access to a misaligned address. Shared
// memory holds NaN when it begins and is as long as was asked for (the address sanitizer sees its ends).
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct dim3 {
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    unsigned x, y, z;
};

namespace emulator {

class Block;
inline thread_local dim3 thread_index, block_index, block_size, grid_size;
Block& block();

// A fiber takes one thread after the other while none waits;
// whichever waits keeps its fiber. Each thread of the host has one, for all launches: fibers are dear to make.
class Block {
public:
    void begin_launch(const std::function<void()>& kernel, unsigned threads, std::size_t shared_bytes) {
        kernel_ = kernel;
        threads_ = threads;
        shared_bytes_ = shared_bytes;
        shared_.reset(new unsigned char[shared_bytes]);
        warps_.resize((threads + 31) / 32);
    }

    // False if the block hangs: some threads wait for others that have ended. Or if one was given up.
    bool run() {
        std::memset(shared_.get(), 0xff, shared_bytes_);
        started_ = ended_ = arrived_ = 0;
        misaligned_ = false;
        for (Warp& w : warps_) w = Warp{};
        while (ended_ < threads_ && !misaligned_) {
            Fiber* next = nullptr;
            for (std::size_t k = 0; k < fibers_.size() && !next; ++k, ++turn_) {
                Fiber& fiber = *fibers_[turn_ % fibers_.size()];
                const bool ready = fiber.waits_for ? *fiber.waits_for != fiber.phase : started_ < threads_;
                if (ready) next = &fiber;
            }
            if (!next && started_ < threads_) {
                fibers_.push_back(std::make_unique<Fiber>());
                next = fibers_.back().get();
            }
            if (!next) break;
            resume(*next);
        }
        if (ended_ == threads_) return true;
        fibers_.clear();  // some are in the middle of a thread
        return false;
    }

    // The thread that runs has touched a misaligned address: the block is given up where it stands.
    void give_up() {
        misaligned_ = true;
        leave(*current_);
    }
    bool misaligned() const { return misaligned_; }

    void barrier() {
        if (++arrived_ == threads_) {
            arrived_ = 0;
            ++phase_;
        } else {
            wait(phase_);
        }
    }

    // Every lane of the mask leaves a word; the word of lane `source` comes back.
    unsigned exchange(unsigned mask, unsigned word, unsigned source) {
        const unsigned lanes = lanes_of(thread_index.x / 32) & mask;
        const unsigned* const words = words_of(lanes, word);
        return lanes >> source & 1 ? words[source] : word;
    }
    // Bit k: whether lane k of the mask says true.
    unsigned ballot(unsigned mask, bool vote) {
        const unsigned lanes = lanes_of(thread_index.x / 32) & mask;
        const unsigned* const words = words_of(lanes, vote);
        unsigned votes = 0;
        for (unsigned lane = 0; lane < 32; ++lane) votes |= (lanes >> lane & words[lane] & 1) << lane;
        return votes;
    }

    unsigned char* shared() const { return shared_.get(); }

private:
    struct Fiber {
        static constexpr std::size_t stack_bytes = 64 * 1024;
        void* place[5];  // where it goes on
        std::unique_ptr<char[]> stack;
        unsigned thread = 0, phase = 0;
        const unsigned* waits_for = nullptr;  // goes on when this is no longer `phase`
        void* fake_stack = nullptr;           // the address sanitizer's
    };
    struct Warp {
        unsigned word[2][32] = {}, arrived = 0, phase = 0;
    };

    unsigned lanes_of(unsigned warp) const {
        const unsigned left = threads_ - 32 * warp;
        return left >= 32 ? 0xffffffffu : (1u << left) - 1;
    }

    // The words that these lanes of a warp leave, when all have left theirs. Valid until the next such call but one.
    const unsigned* words_of(unsigned lanes, unsigned word) {
        Warp& warp = warps_[thread_index.x / 32];
        const unsigned parity = warp.phase & 1;
        warp.word[parity][thread_index.x % 32] = word;
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
        thread_index = dim3(self.thread, 0, 0);
    }

    static void main() {
        Block& b = block();
        arrived_at(nullptr, &b.main_bottom_, &b.main_bytes_);
        while (true) {
            Fiber& self = *b.current_;
            while (b.started_ < b.threads_) {
                self.thread = b.started_++;
                thread_index = dim3(self.thread, 0, 0);
                b.kernel_();
                ++b.ended_;
            }
            b.leave(self);
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
    unsigned threads_ = 0;
    std::size_t shared_bytes_ = 0;
    std::unique_ptr<unsigned char[]> shared_;
    std::vector<Warp> warps_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    Fiber* current_ = nullptr;
    std::size_t turn_ = 0;  // fibers are asked in turn
    void* main_place_[5];
    void* main_fake_stack_ = nullptr;
    const void* main_bottom_ = nullptr;
    std::size_t main_bytes_ = 0;
    unsigned started_ = 0, ended_ = 0, arrived_ = 0, phase_ = 0;
    bool misaligned_ = false;
};

inline Block& block() {
    static thread_local Block block;
    return block;
}
inline unsigned char* shared_memory() { return block().shared(); }

}  // namespace emulator

#if defined(GRADFUSE_CHECKS_ALIGNMENT)
// What the compiler (-fsanitize=alignment) calls in place of a misaligned access.
extern "C" [[noreturn]] inline __attribute__((used, visibility("hidden"))) void __ubsan_handle_type_mismatch_v1_abort(
    void*, void*) {
    emulator::block().give_up();
    __builtin_unreachable();
}
#endif
