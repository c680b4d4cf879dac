// cAdvisor's own command is a module of its own (github.com/google/cadvisor/cmd), which the Go module proxy does not
// have. This starts the same manager and the same collector out of its library, and serves /metrics as that does.
package main

import (
	"flag"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/google/cadvisor/cache/memory"
	"github.com/google/cadvisor/container"
	_ "github.com/google/cadvisor/container/docker/install"
	v2 "github.com/google/cadvisor/info/v2"
	"github.com/google/cadvisor/manager"
	"github.com/google/cadvisor/metrics"
	"github.com/google/cadvisor/utils/sysfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

func main() {
	address := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	flag.Parse()
	included := container.AllMetrics.Difference(container.MetricSet{
		container.PerfMetrics: {}, container.ResctrlMetrics: {}, container.ReferencedMemoryMetrics: {},
		container.CPUTopologyMetrics: {}, container.HugetlbUsageMetrics: {}, container.MemoryNumaMetrics: {},
		container.ProcessMetrics: {}, container.NetworkTcpUsageMetrics: {}, container.NetworkUdpUsageMetrics: {},
		container.NetworkAdvancedTcpUsageMetrics: {}, container.ProcessSchedulerMetrics: {},
	})
	most, dynamic := 10*time.Second, true
	watched, err := manager.New(memory.New(2*time.Minute, nil), sysfs.NewRealSysFs(),
		manager.HousekeepingConfig{Interval: &most, AllowDynamic: &dynamic}, included, http.DefaultClient, []string{}, []string{}, "", 0)
	if err != nil {
		klog.Fatal(err)
	}
	if err := watched.Start(); err != nil {
		klog.Fatal(err)
	}
	options := v2.RequestOptions{IdType: v2.TypeName, Count: 1, Recursive: true}
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		metrics.NewPrometheusCollector(watched, metrics.DefaultContainerLabels, included, clock.RealClock{}, options),
		metrics.NewPrometheusMachineCollector(watched, included),
	)
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-told
		os.Exit(0)
	}()
	klog.Fatal(http.ListenAndServe(*address, nil))
}
