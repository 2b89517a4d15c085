// Cuts the elements of many tensors into chunks, and groups chunks into tasks. This depends only on the sizes, so it is
// done once.
#pragma once

#include <memory>
#include <vector>

#include "core/backend.h"

namespace gradfuse {

class Chunks {
public:
    Chunks() = default;

    template <class Sizes>
    explicit Chunks(const Sizes& sizes) {
        constexpr std::int64_t task_size = 2 * ChunkTable::chunk_size;
        constexpr std::int64_t one_thread = 8 * ChunkTable::chunk_size;  // too little work to wake another thread
        std::int64_t total = 0, in_task = 0;
        for (const std::int64_t n : sizes) total += n;
        const bool one_task = total <= one_thread;
        tasks_.push_back(0);
        for (std::size_t tensor = 0; tensor < sizes.size(); ++tensor) {
            for (std::int64_t start = 0; start < sizes[tensor]; start += ChunkTable::chunk_size) {
                const std::int64_t left = sizes[tensor] - start;
                const std::int64_t count = left < ChunkTable::chunk_size ? left : ChunkTable::chunk_size;
                chunks_.push_back({int(tensor), start, count});
                in_task += count;
                if (!one_task && in_task >= task_size) {
                    tasks_.push_back(int(chunks_.size()));
                    in_task = 0;
                }
            }
        }
        if (tasks_.back() != int(chunks_.size())) tasks_.push_back(int(chunks_.size()));
        elements_ = total;
    }

    // `lasting`: the table is of an optimizer, and a device keeps its part of it from call to call.
    ChunkTable table(const std::vector<Tensor>& tensors, bool lasting, std::int64_t version = 0) {
        if (!lasting) resident_.reset();
        return {tensors.data(), int(tensors.size()),    chunks_.data(), int(chunks_.size()),
                tasks_.data(),  int(tasks_.size()) - 1, &resident_,     lasting,
                version};
    }
    std::int64_t elements() const { return elements_; }

private:
    std::vector<Chunk> chunks_;
    std::vector<int> tasks_;
    std::int64_t elements_ = 0;
    std::unique_ptr<Resident> resident_;
};

}  // namespace gradfuse
