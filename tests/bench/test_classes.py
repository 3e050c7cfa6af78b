"""Kernels' and operators' names, as profiles on cards and CPUs have them, and their classes."""

import pytest

from unet_motion.bench.classes import class_of

HALF = "cutlass::half_t"
NAMES = {
    "attention": (
        f"void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4, false, false, {HALF}, "
        f"Flash_kernel_traits<64, 128, 128, 4, {HALF}> >, false, false, false, false, true, true, false, false>"
        "(pytorch_flash::Flash_fwd_params)",
        "void pytorch_flash::flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<64, 64, 256, 4, false, false>>",
        "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::CollectiveMainloop>>>",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0",
        "cudnn_generated_fort_native_sdpa_sm80_flash_fprop_wmma_f16_knob_3_64x64x128_4x1x1_kernel0_0",
        f"fmha_cutlassF_f16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel<{HALF}, "
        "cutlass::arch::Sm80, true, 64, 128, 128, true, true>::Params)",
        "void (anonymous namespace)::softmax_warp_forward<float, float, float, 5, false, false>(float*, float const*)",
        "void at::native::(anonymous namespace)::cunn_SoftMaxForward<8, float, float, float>",
        "triton_per_fused__softmax_mul_4",
        "_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_softmax",
        "unet_motion::temporal_attention",
    ),
    "convolution": (
        "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_warpgroupsize1x1x1_g1"
        "_execute_segment_k_off_kernel__5x_cudnn",
        "sm80_xmma_fprop_implicit_gemm_indexed_wo_smem_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x64x32_stage1",
        "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_f16_s16816fprop_optimized_f16_128x128_32x4_nhwc_align8>",
        "void implicit_convolve_sgemm<__half, __half, 1024, 5, 5, 3, 3, 3, 1, false, false, true>",
        "_5x_cudnn_ampere_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v1",
        "void cudnn::winograd_nonfused::winogradForwardOutput4x4<float, float>",
        "cutlass3x_sm100_tensorop_s256x256x16implicit_gemm_fprop_bf16",
        "triton_tem_fused_convolution_12",
        "aten::mkldnn_convolution",
        "aten::conv2d",
    ),
    "GEMM": (
        "nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NNT",
        "nvjet_tst_192x160_64x4_2x1_v_bz_coopB_bias_TNT",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel"
        "__5x_cublas",
        "ampere_fp16_s16816gemm_fp16_64x64_ldg8_f2f_stages_64x5_tn",
        "ampere_sgemm_128x64_tn",
        "void cutlass::Kernel2<cutlass_80_tensorop_f16_s16816gemm_relu_f16_256x128_32x3_tn_align8>"
        "(cutlass_80_tensorop_f16_s16816gemm_relu_f16_256x128_32x3_tn_align8::Params)",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __half, float, __half, true, true, false>",
        "void gemv2T_kernel_val<int, int, __half, __half, __half, float, 128, 16, 4, 4, false, false>",
        "triton_tem_fused_addmm_7",
        "_geglu_product",
        "aten::addmm",
        "aten::bmm",
    ),
    "norm": (
        "void at::native::(anonymous namespace)::RowwiseMomentsCUDAKernel<c10::Half>(long, float, c10::Half const*)",
        "void at::native::(anonymous namespace)::ComputeFusedParamsCUDAKernel<c10::Half>(long, long, long)",
        "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)::"
        "GroupNormKernelImplInternal<c10::Half>(at::Tensor const&)::{lambda(c10::Half, float, float)#1}>",
        "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::Half, float>(int, float)",
        "triton_red_fused_native_group_norm_3",
        "_statistics",
        "_combine",
        "_apply",
        "_whole",
        "_layer_norm",
        "aten::native_group_norm",
        "aten::native_layer_norm",
    ),
    "layout": (
        "void cudnn::engines_precompiled::nchwToNhwcKernel<float, __half, float, false, true>",
        "void cudnn::ops::nhwcToNchwKernel<__half, __half, float, true, false, (cudnnKernelDataType_t)0>",
        "_ZN5cudnn19engines16nchwToNhwcKernel",
    ),
    "copy": (
        "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<"
        "at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda()#3}>>",
        "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)>",
        "void at::native::(anonymous namespace)::CatArrayBatchedCopy_contig<at::native::OpaqueType<2u>, unsigned int>",
        "void at::native::(anonymous namespace)::upsample_nearest2d_nhwc_out_frame<c10::Half>",
        "Memcpy DtoD (Device -> Device)",
        "Memset (Device)",
        "_concat",
        "aten::copy_",
        "aten::cat",
    ),
    "pointwise": (
        "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)::silu_kernel("
        "at::TensorIteratorBase&)::{lambda()#1}, std::array<char*, 2ul> >",
        "void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<c10::Half>, std::array<char*>>",
        "void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl(at::TensorIteratorBase&)>",
        "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float, float>>>",
        "triton_poi_fused_add_mul_silu_0",
        "_geglu",
        "aten::mul",
        "aten::silu",
    ),
}


@pytest.mark.parametrize("kind,name", [(kind, name) for kind, names in NAMES.items() for name in names])
def test_a_name_has_its_class(kind, name):
    assert class_of(name) == kind
