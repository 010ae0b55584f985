//! The fields that have an effect, structure by structure. A test holds each name against the schema and the page against this table.

/// Structure, and its fields that do what Kubernetes says.
pub(super) const SUPPORTED: &[(&str, &str)] = &[
    (
        "ObjectMeta",
        "annotations creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generateName generation labels \
        managedFields name namespace ownerReferences resourceVersion uid",
    ),
    ("ManagedFieldsEntry", "apiVersion fieldsType fieldsV1 manager operation subresource time"),
    ("OwnerReference", "apiVersion blockOwnerDeletion controller kind name uid"),
    ("LabelSelector", "matchExpressions matchLabels"),
    ("LabelSelectorRequirement", "key operator values"),
    ("ConfigMap", "apiVersion binaryData data immutable kind metadata"),
    ("Secret", "apiVersion data immutable kind metadata stringData type"),
    ("ServiceAccount", "apiVersion kind metadata"),
    ("Namespace", "apiVersion kind metadata spec status"),
    ("NamespaceSpec", "finalizers"),
    ("NamespaceStatus", "phase"),
    (
        "Event",
        "action apiVersion count eventTime firstTimestamp involvedObject kind lastTimestamp message metadata reason related \
        reportingComponent reportingInstance series source type",
    ),
    ("EventSeries", "count lastObservedTime"),
    ("EventSource", "component host"),
    ("ObjectReference", "apiVersion fieldPath kind name namespace resourceVersion uid"),
    // Deployments and ReplicaSets.
    ("Deployment", "apiVersion kind metadata spec status"),
    (
        "DeploymentSpec",
        "minReadySeconds paused progressDeadlineSeconds replicas revisionHistoryLimit selector strategy template",
    ),
    ("DeploymentStrategy", "rollingUpdate type"),
    ("RollingUpdateDeployment", "maxSurge maxUnavailable"),
    (
        "DeploymentStatus",
        "availableReplicas conditions observedGeneration readyReplicas replicas unavailableReplicas updatedReplicas",
    ),
    ("DeploymentCondition", "lastTransitionTime lastUpdateTime message reason status type"),
    ("ReplicaSet", "apiVersion kind metadata spec status"),
    ("ReplicaSetSpec", "minReadySeconds replicas selector template"),
    ("ReplicaSetStatus", "availableReplicas fullyLabeledReplicas observedGeneration readyReplicas replicas"),
    ("PodTemplateSpec", "metadata spec"),
    // Jobs and CronJobs.
    ("Job", "apiVersion kind metadata spec status"),
    (
        "JobSpec",
        "activeDeadlineSeconds backoffLimit completionMode completions managedBy manualSelector parallelism podFailurePolicy \
        podReplacementPolicy selector suspend template ttlSecondsAfterFinished",
    ),
    ("PodFailurePolicy", "rules"),
    ("PodFailurePolicyRule", "action onExitCodes onPodConditions"),
    ("PodFailurePolicyOnExitCodesRequirement", "containerName operator values"),
    ("PodFailurePolicyOnPodConditionsPattern", "status type"),
    (
        "JobStatus",
        "active completedIndexes completionTime conditions failed ready startTime succeeded terminating uncountedTerminatedPods",
    ),
    ("JobCondition", "lastProbeTime lastTransitionTime message reason status type"),
    ("UncountedTerminatedPods", "failed succeeded"),
    ("CronJob", "apiVersion kind metadata spec status"),
    (
        "CronJobSpec",
        "concurrencyPolicy failedJobsHistoryLimit jobTemplate schedule startingDeadlineSeconds successfulJobsHistoryLimit \
        suspend timeZone",
    ),
    ("JobTemplateSpec", "metadata spec"),
    ("CronJobStatus", "active lastScheduleTime lastSuccessfulTime"),
    // The machine.
    ("Node", "apiVersion kind metadata spec status"),
    ("NodeSpec", "taints unschedulable"),
    ("Taint", "effect key timeAdded value"),
    ("NodeStatus", "addresses allocatable capacity conditions nodeInfo"),
    ("NodeAddress", "address type"),
    ("NodeCondition", "lastHeartbeatTime lastTransitionTime message reason status type"),
    (
        "NodeSystemInfo",
        "architecture bootID containerRuntimeVersion kernelVersion kubeletVersion machineID operatingSystem osImage systemUUID",
    ),
    // Pods: what the node side honours.
    ("Pod", "apiVersion kind metadata spec status"),
    (
        "PodSpec",
        "activeDeadlineSeconds affinity containers dnsConfig hostAliases hostname imagePullSecrets initContainers nodeName nodeSelector \
        readinessGates restartPolicy schedulingGates securityContext terminationGracePeriodSeconds tolerations topologySpreadConstraints \
        volumes",
    ),
    ("Toleration", "effect key operator tolerationSeconds value"),
    // There is one node: what is only preferred, and how pods spread, is as well as it can be.
    ("Affinity", "nodeAffinity podAffinity podAntiAffinity"),
    (
        "NodeAffinity",
        "preferredDuringSchedulingIgnoredDuringExecution requiredDuringSchedulingIgnoredDuringExecution",
    ),
    ("PreferredSchedulingTerm", "preference weight"),
    ("NodeSelector", "nodeSelectorTerms"),
    ("NodeSelectorTerm", "matchExpressions matchFields"),
    ("NodeSelectorRequirement", "key operator values"),
    (
        "PodAffinity",
        "preferredDuringSchedulingIgnoredDuringExecution requiredDuringSchedulingIgnoredDuringExecution",
    ),
    (
        "PodAntiAffinity",
        "preferredDuringSchedulingIgnoredDuringExecution requiredDuringSchedulingIgnoredDuringExecution",
    ),
    ("WeightedPodAffinityTerm", "podAffinityTerm weight"),
    ("PodAffinityTerm", "labelSelector namespaces topologyKey"),
    (
        "TopologySpreadConstraint",
        "labelSelector matchLabelKeys maxSkew nodeAffinityPolicy nodeTaintsPolicy topologyKey whenUnsatisfiable",
    ),
    ("PodReadinessGate", "conditionType"),
    (
        "PodStatus",
        "conditions containerStatuses hostIP hostIPs initContainerStatuses message phase podIP podIPs qosClass reason startTime",
    ),
    ("PodCondition", "lastProbeTime lastTransitionTime message reason status type"),
    ("HostIP", "ip"),
    ("PodIP", "ip"),
    ("ContainerStatus", "containerID image imageID lastState name ready restartCount started state"),
    ("ContainerState", "running terminated waiting"),
    ("ContainerStateRunning", "startedAt"),
    ("ContainerStateTerminated", "containerID exitCode finishedAt message reason startedAt"),
    ("ContainerStateWaiting", "message reason"),
    (
        "PodSecurityContext",
        "fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser supplementalGroups",
    ),
    ("PodDNSConfig", "nameservers"),
    ("HostAlias", "hostnames ip"),
    ("LocalObjectReference", "name"),
    ("PodSchedulingGate", "name"),
    (
        "Container",
        "args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe resources restartPolicy \
        securityContext startupProbe stdin stdinOnce tty volumeMounts workingDir",
    ),
    ("ContainerPort", "containerPort hostIP hostPort name protocol"),
    ("EnvVar", "name value valueFrom"),
    ("EnvVarSource", "configMapKeyRef fieldRef resourceFieldRef secretKeyRef"),
    ("ConfigMapKeySelector", "key name optional"),
    ("SecretKeySelector", "key name optional"),
    ("ObjectFieldSelector", "apiVersion fieldPath"),
    ("ResourceFieldSelector", "containerName divisor resource"),
    ("EnvFromSource", "configMapRef prefix secretRef"),
    ("ConfigMapEnvSource", "name optional"),
    ("SecretEnvSource", "name optional"),
    ("Lifecycle", "postStart preStop"),
    ("LifecycleHandler", "exec httpGet sleep tcpSocket"),
    ("ExecAction", "command"),
    ("HTTPGetAction", "host httpHeaders path port scheme"),
    ("HTTPHeader", "name value"),
    ("TCPSocketAction", "host port"),
    ("GRPCAction", "port service"),
    ("SleepAction", "seconds"),
    (
        "Probe",
        "exec failureThreshold grpc httpGet initialDelaySeconds periodSeconds successThreshold tcpSocket timeoutSeconds",
    ),
    ("ResourceRequirements", "limits requests"),
    (
        "SecurityContext",
        "allowPrivilegeEscalation capabilities readOnlyRootFilesystem runAsGroup runAsNonRoot runAsUser",
    ),
    ("Capabilities", "add drop"),
    ("Volume", "configMap downwardAPI emptyDir name projected secret"),
    ("VolumeMount", "mountPath name readOnly subPath subPathExpr"),
    ("ConfigMapVolumeSource", "defaultMode items name optional"),
    ("SecretVolumeSource", "defaultMode items optional secretName"),
    ("EmptyDirVolumeSource", "medium sizeLimit"),
    ("DownwardAPIVolumeSource", "defaultMode items"),
    ("DownwardAPIVolumeFile", "fieldRef mode path resourceFieldRef"),
    ("ProjectedVolumeSource", "defaultMode sources"),
    ("VolumeProjection", "configMap downwardAPI secret"),
    ("ConfigMapProjection", "items name optional"),
    ("SecretProjection", "items name optional"),
    ("DownwardAPIProjection", "items"),
    ("KeyToPath", "key mode path"),
];

/// Structure, field, and a key of it that has no effect, though others have.
pub(super) const IDLE: &[(&str, &str, &str)] = &[
    // A writable layer's size is the same for all; it is neither counted nor bounded by pod.
    ("ResourceRequirements", "limits", "ephemeral-storage"),
    ("ResourceRequirements", "requests", "ephemeral-storage"),
];

/// Structure, field, and a value that asks for nothing else than what is so anyway: no warning is due.
pub(super) const HARMLESS: &[(&str, &str, &str)] = &[
    ("PodSpec", "schedulerName", "default-scheduler"),
    // There are no services whose addresses could be told.
    ("PodSpec", "enableServiceLinks", "true"),
    ("PodSpec", "preemptionPolicy", "PreemptLowerPriority"),
    ("PodSpec", "serviceAccount", "default"),
    ("PodSpec", "serviceAccountName", "default"),
    ("PodSpec", "dnsPolicy", "ClusterFirst"),
    ("PodSpec", "dnsPolicy", "Default"),
    ("PodSpec", "os", r#"{"name": "linux"}"#),
    // Every container has the runtime's filter.
    ("PodSecurityContext", "seccompProfile", r#"{"type": "RuntimeDefault"}"#),
    ("SecurityContext", "seccompProfile", r#"{"type": "RuntimeDefault"}"#),
    ("SecurityContext", "procMount", "Default"),
    ("Container", "terminationMessagePath", "/dev/termination-log"),
    ("Container", "terminationMessagePolicy", "File"),
];
